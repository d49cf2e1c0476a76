// Sorts and filters tables, and keeps how in the page's address. Without it all can be read.
"use strict";

(() => {
  const MISSING = "–";
  const FEW_ROWS = 8; // Tables up to this size need no filters.
  const MANY_FILTERS = 8; // More of them are folded.
  const MANY_VALUES = 80; // A column with more of them is searched, not chosen from.
  const PORTION = 200; // Rows that are laid out at once; thousands would take seconds.
  const NUMBERS = /(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i;

  /** The text by which a place is sorted and filtered: what stands before its mark or detail. */
  function textOf(place) {
    let text = "";
    for (const node of place.childNodes) {
      if (node.nodeName === "SMALL" || node.nodeName === "SPAN") break;
      text += node.textContent;
    }
    return text.trim();
  }

  /** A text as words and numbers in turns, so that 8 comes before 32 and 1e-05 before 0.1. */
  const parts = (text) =>
    text.split(NUMBERS).map((part, place) => (place % 2 ? Number(part) : part.toLowerCase()));

  function compare(first, second) {
    for (let place = 0; place < Math.min(first.length, second.length); place++) {
      if (first[place] < second[place]) return -1;
      if (first[place] > second[place]) return 1;
    }
    return first.length - second.length;
  }

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  /** A table with its state: column and order of sorting, text sought, value by column. */
  class Table {
    constructor(table) {
      this.table = table;
      this.body = table.tBodies[0];
      this.rows = [...this.body.rows];
      this.standing = this.rows;
      this.limit = PORTION;
      this.headings = [...table.tHead.rows[0].cells];
      this.names = this.headings.map((heading) => heading.textContent.trim());
      this.clear();
      this.headings.forEach((heading, column) => {
        if ("link" in heading.dataset) return;
        const button = element("button", { type: "button" }, ...heading.childNodes);
        button.addEventListener("click", () => this.sortNext(column));
        heading.append(button);
      });
      const filtered = this.headings.some((heading) => "filtered" in heading.dataset);
      if (filtered && this.rows.length > FEW_ROWS) this.addControls();
      if (this.rows.length > PORTION) this.addMore();
    }

    clear() {
      this.limit = PORTION;
      this.sort = -1;
      this.order = "";
      this.sought = "";
      this.chosen = new Map();
    }

    addControls() {
      this.selects = new Map();
      const id = this.table.id;
      const bar = element("div", { className: "controls" });
      bar.setAttribute("role", "group");
      bar.setAttribute("aria-label", `Filter: ${this.table.caption.textContent}`);
      this.search = element("input", { type: "search", autocomplete: "off" });
      this.search.addEventListener("input", () => {
        this.sought = this.search.value;
        this.changed();
      });
      bar.append(element("label", {}, "Search rows", this.search));
      this.headings.forEach((heading, column) => {
        if (!("filtered" in heading.dataset)) return;
        const values = [...new Set(this.rows.map((row) => textOf(row.cells[column])))];
        if (values.length < 2 || values.length > MANY_VALUES) return;
        const sorted = values.map((value) => [parts(value), value]);
        sorted.sort((first, second) => compare(first[0], second[0]));
        const select = element("select", {}, new Option("all", ""));
        for (const [, value] of sorted) select.append(new Option(value, `=${value}`));
        select.addEventListener("change", () => {
          if (select.value) this.chosen.set(column, select.value.slice(1));
          else this.chosen.delete(column);
          this.changed();
        });
        this.selects.set(column, select);
        bar.append(element("label", {}, this.names[column], select));
      });
      const reset = element("button", { type: "button" }, "Reset");
      reset.addEventListener("click", () => {
        this.clear();
        this.changed();
      });
      this.count = element("p", { className: "count" });
      this.count.setAttribute("role", "status");
      bar.append(reset, this.count);
      // On a phone the filters of a wide table would fill the screen, and elsewhere a good part of it.
      const open = matchMedia("(min-width: 40rem)").matches && this.selects.size <= MANY_FILTERS;
      const summary = element("summary", {}, "Filter rows");
      this.table.parentElement.before(element("details", { open }, summary, bar));
      this.table.setAttribute("aria-describedby", (this.count.id = `${id}-count`));
    }

    addMore() {
      this.more = element("button", { type: "button", className: "more" });
      this.more.addEventListener("click", () => {
        this.limit += PORTION;
        this.show();
      });
      this.table.parentElement.after(this.more);
    }

    /** Numbers come first from the greatest, texts from the least; the third time as they were. */
    sortNext(column) {
      const orders =
        "number" in this.headings[column].dataset
          ? ["descending", "ascending", ""]
          : ["ascending", "descending", ""];
      const next = this.sort === column ? orders.indexOf(this.order) + 1 : 0;
      this.order = orders[next];
      this.sort = this.order ? column : -1;
      this.changed();
    }

    changed() {
      this.show();
      writeAddress();
    }

    fits(row) {
      if (this.sought && !row.textContent.toLowerCase().includes(this.sought.toLowerCase())) {
        return false;
      }
      return [...this.chosen].every(([column, value]) => textOf(row.cells[column]) === value);
    }

    /** Show what the state says; the row that the address names is never hidden. */
    show() {
      const sorted = this.sorted();
      let fitting = 0;
      for (const row of sorted) {
        const fits = this.fits(row);
        fitting += fits;
        row.hidden = row !== chosenRow && !(fits && fitting <= this.limit);
      }
      if (sorted.some((row, place) => row !== this.standing[place])) this.body.append(...sorted);
      this.standing = sorted;
      this.table.classList.add("ready");
      if (this.more) {
        this.more.hidden = fitting <= this.limit;
        this.more.textContent = `Show ${Math.min(PORTION, fitting - this.limit)} more rows`;
      }
      this.headings.forEach((heading, column) => {
        if (column === this.sort) heading.setAttribute("aria-sort", this.order);
        else heading.removeAttribute("aria-sort");
      });
      if (!this.count) return;
      const first = fitting > this.limit ? `, the first ${this.limit} shown` : "";
      this.count.textContent = `${fitting} of ${this.rows.length} rows${first}`;
      if (this.search.value !== this.sought) this.search.value = this.sought;
      for (const [column, select] of this.selects) {
        select.value = this.chosen.has(column) ? `=${this.chosen.get(column)}` : "";
      }
    }

    /** The rows in their order; what is missing comes last either way. */
    sorted() {
      if (this.sort < 0) return this.rows;
      const sign = this.order === "ascending" ? 1 : -1;
      const keyed = this.rows.map((row) => {
        const text = textOf(row.cells[this.sort]);
        return { row, key: parts(text), missing: text === MISSING || text === "" };
      });
      keyed.sort(
        (first, second) =>
          first.missing - second.missing || sign * compare(first.key, second.key),
      );
      return keyed.map(({ row }) => row);
    }

    read(parameters) {
      this.clear();
      const id = this.table.id;
      this.sort = this.names.indexOf(parameters.get(`${id}.sort`));
      const order = parameters.get(`${id}.order`);
      if (this.sort >= 0) this.order = order === "descending" ? order : "ascending";
      this.sought = parameters.get(`${id}.search`) ?? "";
      this.names.forEach((name, column) => {
        const value = parameters.get(`${id}.is.${name}`);
        if (value !== null && this.selects?.has(column)) this.chosen.set(column, value);
      });
      this.show();
    }

    write(parameters) {
      const id = this.table.id;
      if (this.sort >= 0) {
        parameters.set(`${id}.sort`, this.names[this.sort]);
        parameters.set(`${id}.order`, this.order);
      }
      if (this.sought) parameters.set(`${id}.search`, this.sought);
      for (const [column, value] of this.chosen) {
        parameters.set(`${id}.is.${this.names[column]}`, value);
      }
    }
  }

  for (const link of document.querySelectorAll('tbody a[href^="#"]')) {
    if (link.textContent === "#") link.setAttribute("aria-label", "Link to this row");
  }

  let chosenRow = null;

  function choose(row) {
    chosenRow?.classList.remove("chosen");
    chosenRow?.removeAttribute("aria-current");
    chosenRow = row;
    row?.closest("details")?.setAttribute("open", "");
    row?.classList.add("chosen");
    row?.setAttribute("aria-current", "true");
  }

  /** The address names a place on the page alone, as any does, or rows and state of tables. */
  function readAddress() {
    const hash = location.hash.slice(1);
    const parameters = new URLSearchParams(hash.includes("=") ? hash : "");
    const named = document.getElementById(hash.includes("=") ? parameters.get("row") : hash);
    choose(named?.matches("tbody > tr") ? named : null);
    for (const table of tables) table.read(parameters);
    chosenRow?.scrollIntoView({ block: "center" });
  }

  function writeAddress() {
    const parameters = new URLSearchParams();
    for (const table of tables) table.write(parameters);
    const plain = chosenRow && ![...parameters].length;
    if (chosenRow && !plain) parameters.set("row", chosenRow.id);
    history.replaceState(null, "", `#${plain ? chosenRow.id : parameters}`);
  }

  const tables = [...document.querySelectorAll("main .table table")].map((table) => new Table(table));

  document.addEventListener("click", (event) => {
    const link = event.target.closest('tbody a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    choose(document.getElementById(link.hash.slice(1)));
    writeAddress();
  });
  addEventListener("hashchange", () => {
    // A place that is no row, such as a heading, leaves tables as they are.
    const place = document.getElementById(location.hash.slice(1));
    if (!place || place.matches("tbody > tr")) readAddress();
  });
  readAddress();
})();
