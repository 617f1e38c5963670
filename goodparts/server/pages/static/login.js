"use strict";
(() => {
  const { one, text, texts } = goodparts;
  const form = one("#login"), error = one("#error");
  const next = new URLSearchParams(location.search).get("next") || "/live";
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    error.hidden = true;
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch("/api/v1/login", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ account: form.account.value, password: form.password.value }),
      });
      if (answer.ok) {
        location.assign(/^\/(?![/\\])/.test(next) ? next : "/live");
        return;
      }
      error.textContent =
        answer.status === 429 ? text(texts.many, { seconds: answer.headers.get("Retry-After") || "5" })
        : answer.status === 401 || answer.status === 422 ? texts.wrong
        : texts.busy;
    } catch {
      error.textContent = texts.lost;
    }
    button.disabled = false;
    error.hidden = false;
    form.password.value = "";
    form.password.focus();
  });
})();
