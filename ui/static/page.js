/* Before the first paint: the language and the theme that were chosen before. Afterwards their two buttons. */
(() => {
  const LANGUAGES = ["en", "vi"];
  const here = () => (/\/vi\/?$/.test(location.pathname) ? "vi" : "en");
  document.documentElement.lang = here();

  /** The address of this page in another language; the root may be a path of a proxy. */
  function addressIn(language) {
    const root = location.pathname.replace(/(\/vi)?\/?$/, "/");
    return root + (language === "en" ? "" : language) + location.search + location.hash;
  }

  function remembered(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  }

  function remember(key, value) {
    try { localStorage.setItem(key, value); } catch { /* a browser that keeps nothing still switches */ }
  }

  const chosen = remembered("lora-lens-chosen-language");
  if (LANGUAGES.includes(chosen) && chosen !== here()) location.replace(addressIn(chosen));

  function switchLanguage() {
    const other = here() === "vi" ? "en" : "vi";
    remember("lora-lens-chosen-language", other);
    location.assign(addressIn(other));
  }

  function toggleTheme() {
    const dark = document.body.classList.toggle("dark");
    remember("lora-lens-theme", dark ? "dark" : "light");
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#language")) switchLanguage();
    if (event.target.closest("#theme")) toggleTheme();
  });
  document.addEventListener("DOMContentLoaded", () => {
    const theme = remembered("lora-lens-theme");
    const asked = new URLSearchParams(location.search).has("__theme");
    if (theme && !asked) document.body.classList.toggle("dark", theme === "dark");
  });
})();
