/* The lists of the Runs tab: read when the tab is opened, and again while it is looked at. */
"use strict";

(() => {
  const CHANGED = "lens:runs-changed";
  const CALLS = { next: "next_row", cancel: "cancel_row", resume: "resume_row", delete: "delete_row", restore: "restore_row" };

  function find(element, action, key) {
    return element.querySelector(`button[data-action="${action}"][data-key="${CSS.escape(key)}"]`);
  }

  /** A row that asks whether it is meant, or asks no longer; one at a time. */
  function ask(element, row, asks) {
    element.querySelectorAll("tr.asks").forEach((other) => other.classList.remove("asks"));
    row.classList.toggle("asks", asks);
    row.querySelector(`button[data-action=${asks ? "keep" : "ask"}]`)?.focus();
  }

  /** `element` holds a .list; `server.list_rows` gives its rows, `goOn` continues from an adapter. */
  lens.list = (element, server, goOn) => {
    const box = element.querySelector(".list");
    let html = null;
    let timer = 0;
    let turn = 0;
    let undone = null;

    async function read() {
      clearTimeout(timer);
      if (!lens.isShown(element)) return;
      const mine = ++turn;
      let again = 5;
      if (!document.hidden) {
        const answer = await server.list_rows({ undone }).catch(() => null);
        if (mine !== turn) return;
        if (answer) {
          again = answer.again_s;
          draw(answer.html);
        }
      }
      timer = setTimeout(read, 1000 * again);
    }

    function draw(now) {
      // Not while a row asks whether to delete it: the question would go.
      if (now === html || element.querySelector("tr.asks")) return;
      const focused = element.contains(document.activeElement) ? document.activeElement.dataset : null;
      box.innerHTML = html = now;
      if (focused?.action) find(element, focused.action, focused.key)?.focus();
    }

    async function change(touched, action, key) {
      const answer = await lens.call(touched, server[CALLS[action]]({ key }));
      if (!answer.warning) undone = action === "delete" ? key : null;
      touched.closest("tr")?.classList.remove("asks");
      document.dispatchEvent(new Event(CHANGED));
    }

    element.addEventListener("click", (event) => {
      const touched = event.target.closest("button[data-action]");
      if (!touched || touched.ariaBusy === "true") return;
      const { action, key } = touched.dataset;
      if (action in CALLS) change(touched, action, key);
      else if (action === "ask" || action === "keep") ask(element, touched.closest("tr"), action === "ask");
      else if (action === "try") lens.tryAdapter(key);
      else {
        lens.openTab("train");
        if (action === "open") lens.openRun(key);
        else goOn(key);
      }
    });
    element.addEventListener("keydown", (event) => {
      const row = event.key === "Escape" && event.target.closest("tr.asks");
      if (row) ask(element, row, false);
    });
    document.addEventListener(CHANGED, read);
    lens.whenShown(element, read);
  };
})();
