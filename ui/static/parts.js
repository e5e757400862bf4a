/* What the scripts of all tabs share: a busy button, a notice, a tab that is opened, a part that is shown. */
(() => {
  const lens = (window.lens = window.lens || {});

  /** Marks what was touched as busy until the answer is there, and tells what is wrong if anything is. */
  lens.call = lens.call || (async (touched, promise) => {
    touched?.setAttribute("aria-busy", "true");
    try {
      const answer = await promise;
      if (answer?.warning) notice(answer.warning);
      return answer;
    } finally {
      touched?.removeAttribute("aria-busy");
    }
  });

  function notice({ problem, remedy }) {
    const box = document.createElement("div");
    box.className = "trouble notice-over";
    box.setAttribute("role", "alert");
    for (const text of [problem, remedy]) {
      const line = document.createElement("p");
      line.textContent = text;
      box.append(line);
    }
    box.addEventListener("click", () => box.remove());
    document.querySelector(".gradio-container").append(box);
    setTimeout(() => box.remove(), 12000);
  }

  /** Opens a tab as a click on it does; on a phone its button may stand in the bar's menu. */
  lens.openTab = lens.openTab || ((name) => {
    document.querySelector(`#pages button[role=tab][data-tab-id="${name}"]`)?.click();
  });

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
})();
