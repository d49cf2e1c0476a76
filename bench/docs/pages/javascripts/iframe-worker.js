// Browsers start no worker from a page that was opened as a file, so that the search would be dead
// there. Its script then runs in a hidden frame. Material's offline plugin would load such a
// stand-in from the web; it takes any script of this name instead, and looks for `IFrameWorker`.
"use strict";

const loadInto = (page, url) =>
  new Promise((done, failed) => {
    const script = page.createElement("script");
    script.onload = done;
    script.onerror = failed;
    script.src = url;
    page.body.append(script);
  });

class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    this.inside = this.frame.contentWindow;
    const page = this.inside.document;
    page.open();
    page.write("<body></body>");
    page.close();
    this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    this.inside.importScripts = (...urls) =>
      urls.reduce((before, next) => before.then(() => loadInto(page, next)), Promise.resolve());
    this.ready = loadInto(page, url);
  }

  postMessage(data) {
    this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
