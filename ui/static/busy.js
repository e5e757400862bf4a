/* A button of Gradio's shows from the click on that it works, until the server has answered what it asked.
   Gradio itself shows it at the outputs, and for that searches its whole tree at each event. */
"use strict";

(() => {
  const ASKS = /\/gradio_api\/(run|queue\/join|queue\/data|upload)/;
  const NOTHING_ASKED_MS = 120, GIVE_UP_MS = 120_000;
  const busy = new Set();
  let open = 0;

  function closed() {
    open -= 1;
    if (open > 0) return;
    for (const button of busy) button.removeAttribute("aria-busy");
    busy.clear();
  }

  /** The answer as it is; `ended` is called when its body has come to its end, or was given up. */
  function watched(response, ended) {
    if (!response.body) {
      ended();
      return response;
    }
    const reader = response.body.getReader();
    const body = new ReadableStream({
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (!done) return controller.enqueue(value);
          controller.close();
        } catch (error) {
          controller.error(error);
        }
        ended();
      },
      cancel(reason) {
        ended();
        return reader.cancel(reason);
      },
    });
    return new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers });
  }

  const plain = window.fetch;
  window.fetch = async (...request) => {
    const url = String(request[0]?.url ?? request[0]);
    if (!ASKS.test(url)) return plain(...request);
    open += 1;
    let answered = false;
    const once = () => {
      if (!answered) closed();
      answered = true;
    };
    try {
      return watched(await plain(...request), once);
    } catch (error) {
      once();
      throw error;
    }
  };

  function mark(button) {
    busy.add(button);
    button.setAttribute("aria-busy", "true");
    const clear = () => {
      busy.delete(button);
      button.removeAttribute("aria-busy");
    };
    setTimeout(() => open === 0 && clear(), NOTHING_ASKED_MS);
    setTimeout(clear, GIVE_UP_MS);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".gradio-container button");
    if (button && !button.matches("[role=tab], [data-do], [data-act], [disabled], .html-container *")) mark(button);
  });
})();
