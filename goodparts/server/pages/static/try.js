"use strict";
(() => {
  const { one, all, texts, text, make, number, post, verdict, picture } = goodparts;
  const drop = one("#drop");
  if (!drop) return;
  const list = one("#list"), look = picture({ opacity: 0.4 });
  let shown = null;
  one("#look").append(look.element);
  const compared = nearestGood(look, one("#nearest"), () => shown);

  function show(item) {
    all("button", list).forEach((button) => button.setAttribute("aria-pressed", button === item.button));
    const record = shown = item.record;
    one("#empty").hidden = true;
    one("#result").hidden = false;
    one("#verdict").replaceChildren(verdict(record.verdict, "huge"));
    one("#words").textContent = [text(texts.score, { score: number(record.score), threshold: number(record.threshold) }), record.borderline && texts.borderline, ...record.reasons].filter(Boolean).join(" · ");
    look.show(record);
    look.image.alt = text(texts.picture, { name: item.name });
    one("#all").href = `/inspections/${record.id}`;
    one("#all").hidden = !record.id;
    compared.clear();
  }

  const waiting = [];
  let working = false;
  async function work() {
    if (working) return;
    working = true;
    while (waiting.length) {
      const item = waiting.shift();
      const model = one("#model").value;
      const query = new URLSearchParams({ part: item.name.slice(0, 200), line: "try" });
      try {
        for (let tries = 0; ; tries += 1) {
          try {
            item.record = await post(`/api/v1/models/${encodeURIComponent(model)}/inspections?${query}`, item.file);
            break;
          } catch (error) {
            if (error.code !== "busy" || tries > 20) throw error;
            await new Promise((done) => setTimeout(done, 500));
          }
        }
        item.state.replaceChildren(verdict(item.record.verdict));
        item.button.disabled = false;
        show(item);
      } catch (error) {
        item.state.replaceChildren(make("span", { class: "error", role: "alert", text: error.message }));
      }
    }
    working = false;
  }
  function take(files) {
    for (const file of files) {
      const item = { file, name: file.name || "image" };
      item.state = make("span", { text: texts.waiting, class: "soft" });
      item.button = make("button", { type: "button", class: "item", disabled: true, "aria-pressed": "false", onclick: () => show(item) }, make("span", { class: "name", text: item.name }), item.state);
      list.prepend(make("li", {}, item.button));
      waiting.push(item);
    }
    work();
  }
  one("#files").addEventListener("change", (event) => { take([...event.target.files]); event.target.value = ""; });
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); take([...event.dataTransfer.files]); });
  one("#opacity").addEventListener("input", (event) => look.opacity(event.target.value / 100));
})();
