/* What comes before Gradio's own scripts: the language of the page, and an end to a clock that is never stopped. */
"use strict";
window.lens = {};

(() => {
  const LANGUAGES = ["en", "vi"];
  const CHOSEN = "lora-lens-chosen-language";
  const STORAGE_REFUSED = "a browser that keeps nothing still shows the page";

  lens.remembered = (key) => {
    try { return localStorage.getItem(key); } catch { console.debug(STORAGE_REFUSED); return null; }
  };
  lens.remember = (key, value) => {
    try {
      if (value === null) localStorage.removeItem(key); else localStorage.setItem(key, value);
    } catch { console.debug(STORAGE_REFUSED); }
  };

  lens.language = /\/vi\/?$/.test(location.pathname) ? "vi" : "en";
  document.documentElement.lang = lens.language;

  /** The address of this page in another language. The page may lie under the path of a proxy. */
  function addressIn(language) {
    const root = location.pathname.replace(/(\/vi)?\/?$/, "/");
    return root + (language === "en" ? "" : language) + location.search + location.hash;
  }

  const chosen = lens.remembered(CHOSEN);
  if (LANGUAGES.includes(chosen) && chosen !== lens.language) location.replace(addressIn(chosen));

  lens.switchLanguage = () => {
    const other = lens.language === "vi" ? "en" : "vi";
    lens.remember(CHOSEN, other);
    lens.beforeSwitch?.();
    location.assign(addressIn(other));
  };

  // Behind a proxy that the server was not told of all is refused, and nothing of the page would say so.
  const plain = window.fetch;
  window.fetch = async (...request) => {
    const response = await plain(...request);
    const refused = response.headers.get("x-lora-lens-refused") && await response.clone().text();
    if (refused && !document.getElementById("refused")) {
      const words = document.createElement("p");
      words.id = "refused";
      words.setAttribute("role", "alert");
      words.textContent = refused;
      words.style = "position:fixed; inset:auto 0 0 0; z-index:99; margin:0; padding:12px 28px; background:#7a1f1f; color:#fff";
      document.body.append(words);
    }
    return response;
  };

  // The clock of Gradio's first "Loading…" is never stopped, as that goes while it is still pending: it asks for
  // every frame from then on, a tenth of a core for nothing. A clock of tenths of a second may tick twice a second.
  // What does not look like one is left alone.
  const CLOCK = /^\(\)=>\{[^;]{0,60}performance\.now\(\)[^;]{0,40}\/1e3/;
  const nextFrame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) =>
    CLOCK.test(Function.prototype.toString.call(callback)) ? setTimeout(callback, 500) : nextFrame(callback);
})();
