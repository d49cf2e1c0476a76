// What Material leaves unnamed, named like another or out of the keyboard's reach: the search, parts of
// the navigation, and regions that scroll sideways.
"use strict";

const mend = () => {
  document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
  for (const section of document.querySelectorAll("nav.md-nav[aria-labelledby]")) {
    if (document.getElementById(section.getAttribute("aria-labelledby"))?.textContent.trim()) continue;
    const title = section.querySelector(".md-nav__title")?.textContent.trim();
    if (!title) continue;
    section.removeAttribute("aria-labelledby");
    section.setAttribute("aria-label", `Section ${title}`);
  }
  // Entries of one name in a table of contents, such as a module and its class.
  const named = new Map();
  for (const entry of document.querySelectorAll("nav.md-nav[aria-label]")) {
    const name = (entry.dataset.name ??= entry.getAttribute("aria-label"));
    const number = (named.get(name.toLowerCase()) ?? 0) + 1;
    named.set(name.toLowerCase(), number);
    if (number > 1) entry.setAttribute("aria-label", `${name} ${number}`);
  }
  document.querySelectorAll("nav.md-code__nav").forEach((buttons, place) => {
    buttons.setAttribute("aria-label", `Copy block ${place + 1}`);
  });
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap")) region.tabIndex = 0;
};

// Material wraps tables after the page is loaded.
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
mend();
