/* What every tab shares: the theme before anything is drawn, one way to call the server, and to patch. */
"use strict";

(() => {
  const THEME = "lora-lens-theme";

  function setTheme(dark) {
    lens.remember(THEME, dark ? "dark" : "light");
    document.body.classList.toggle("dark", dark);
  }

  /** Gradio sets the system's theme as it starts, and when that changes: what was chosen here holds. */
  function holdTheme() {
    const theme = lens.remembered(THEME);
    if (!theme || new URLSearchParams(location.search).has("__theme")) return;
    if (document.body.classList.contains("dark") !== (theme === "dark")) document.body.classList.toggle("dark");
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#language")) lens.switchLanguage();
    if (event.target.closest("#theme")) setTheme(!document.body.classList.contains("dark"));
  });
  // Gradio runs the scripts of its `head` as it starts: the document is long loaded, and nothing drawn yet. It has
  // put the browser's language where first.js had put the page's.
  document.documentElement.lang = lens.language;
  holdTheme();
  new MutationObserver(holdTheme).observe(document.body, { attributeFilter: ["class"] });

  /** Opens a tab as a click on it does; on a phone its button may stand in the bar's menu. */
  lens.openTab = (name) => {
    document.querySelector(`#pages button[role=tab][data-tab-id="${name}"]`)?.click();
  };

  lens.isShown = (element) => element.offsetParent !== null;

  /** Calls back each time an element comes into view with its tab: an unopened tab costs nothing. */
  lens.whenShown = (element, shown) => {
    let before = false;
    new ResizeObserver(() => {
      const now = lens.isShown(element);
      if (now && !before) shown();
      before = now;
    }).observe(element);
  };

  const NAMED = ["aria-label", "title", "placeholder"];

  /** Gradio has no Vietnamese: the few words of its own that are seen here are put into ours, as they appear. */
  lens.nameAnew = (root) => {
    const words = lens.gradios[lens.language];
    if (!words) return;
    const anew = () => {
      for (const node of [root, ...root.querySelectorAll("*")]) {
        for (const name of NAMED) {
          const ours = words[node.getAttribute(name)];
          if (ours) node.setAttribute(name, ours);
        }
        for (const text of node.childNodes) {
          const ours = text.nodeType === Node.TEXT_NODE && words[text.nodeValue.trim()];
          if (ours) text.nodeValue = ours;
        }
      }
    };
    anew();
    new MutationObserver(anew).observe(root, { subtree: true, childList: true, attributeFilter: NAMED });
  };

  /** A sentence over the page that goes by itself. */
  lens.toast = ({ problem, remedy }) => {
    const toast = document.createElement("div");
    toast.className = "toast";
    toast.setAttribute("role", "alert");
    for (const words of [problem, remedy]) {
      toast.appendChild(document.createElement("p")).textContent = words ?? "";
    }
    document.querySelector(".gradio-container").append(toast);
    setTimeout(() => toast.remove(), 10_000);
  };

  /** Waits for a call of the server, with the touched thing marked as busy; tells what was refused. */
  lens.call = async (touched, promise) => {
    touched?.setAttribute("aria-busy", "true");
    try {
      const answer = await promise;
      if (answer?.warning ?? answer?.note) lens.toast(answer.warning ?? answer.note);
      return answer;
    } finally {
      touched?.removeAttribute("aria-busy");
    }
  };

  const KEPT_ATTRIBUTES = ["open", "aria-busy"];  // what the reader did, not what the server wrote

  function morphAttributes(old, fresh) {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !KEPT_ATTRIBUTES.includes(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  }

  function morphChildren(old, fresh) {
    const wanted = [...fresh.childNodes];
    while (old.childNodes.length > wanted.length) old.lastChild.remove();
    wanted.forEach((node, at) => {
      const there = old.childNodes[at];
      if (!there) old.append(node);
      else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName || there.id !== node.id) {
        there.replaceWith(node);
      } else if (node.nodeType === Node.ELEMENT_NODE) {
        morphAttributes(there, node);
        morphChildren(there, node);
      } else if (there.nodeValue !== node.nodeValue) there.nodeValue = node.nodeValue;
    });
  }

  /** Makes a node's content what the server wrote, in place: focus, selection and transitions survive. */
  lens.morph = (node, html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    morphChildren(node, template.content);
  };
})();
