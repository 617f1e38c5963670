"use strict";
(() => {
  const { one, all, texts, text, make, number, get, post, picture, verdict, timeOf, tell, tellError } = goodparts;
  const work = one("#work");
  if (!work) return;
  const LIST = 200, SAMPLE = 20; // parts of a list, and good ones among what is new
  const look = picture({ opacity: 0.3, alt: texts.picture });
  one("#look").append(look.element);
  let list = [], place = 0, done = 0, said = [], boxes = [], drawing = false, saving = false;

  // ---- which parts

  const page = async (query) => (await get(`/api/v1/inspections?${new URLSearchParams({ model: one("#model").value, limit: LIST, ...query })}`)).items;
  function sample(items, n) {
    const left = [...items], chosen = [];
    while (left.length && chosen.length < n) chosen.push(left.splice(Math.floor(Math.random() * left.length), 1)[0]);
    return chosen;
  }
  const KINDS = {
    bad: () => page({ review: "none", verdict: "BAD" }),
    recheck: () => page({ review: "none", verdict: "RECHECK" }),
    borderline: () => page({ review: "none", borderline: true }),
    good: async () => sample(await page({ review: "none", verdict: "GOOD" }), SAMPLE),
    unsure: () => page({ review: "UNSURE" }),
    reviewed: () => page({ review: "reviewed" }),
    disagree: async () => (await get("/api/v1/disagreements")).filter((record) => record.model === one("#model").value),
    async new() {
      const parts = await Promise.all([KINDS.bad(), KINDS.recheck(), KINDS.borderline(), KINDS.good()]);
      return [...new Map(parts.flat().map((record) => [record.id, record])).values()];
    },
  };
  const load = () => goodparts.fill(one("#place"), async () => {
    work.hidden = true;
    one("#empty").hidden = true;
    const [found, classes] = await Promise.all([KINDS[one("#which").value](), get("/api/v1/defect-classes")]);
    list = found;
    place = done = 0;
    said = [];
    one("#classes").replaceChildren(...classes.map(({ name }) => make("option", { value: name })));
    one("#quick").replaceChildren(...classes.slice(0, 6).map(({ name }, index) =>
      make("button", { type: "button", class: "button second quick", onclick: () => { one("#class").value = name; } }, make("kbd", { text: index + 1 }), ` ${name}`)));
    show();
  });

  // ---- one part

  function show() {
    const record = list[place];
    one("#empty").hidden = Boolean(record);
    work.hidden = !record;
    one("#progress").value = list.length ? done / list.length : 1;
    one("#done").textContent = text(texts.progress, { done, all: list.length });
    one("#undo").disabled = !said.length;
    one("#back").disabled = place === 0;
    one("#next").disabled = place >= list.length - 1;
    if (!record) return;
    look.show(record);
    if (list[place + 1]?.image_kept) new Image().src = goodparts.view(list[place + 1].id); // the next one is there at once
    boxes = [];
    setDrawing(false);
    one("#comment").value = "";
    one("#class").value = "";
    const where = [record.line, record.camera].filter(Boolean).join(" · ");
    one("#about").replaceChildren(
      make("p", {}, verdict(record.verdict, "big"), make("small", { text: ` ${texts.was}` })),
      make("dl", { class: "facts" },
        make("dt", { text: texts.part }), make("dd", {}, make("a", { href: `/inspections/${record.id}`, text: record.part || record.id.slice(0, 12) }), " ", timeOf(record.time)),
        ...(where ? [make("dt", { text: texts.where }), make("dd", { text: where })] : []),
        make("dt", { text: texts.score }), make("dd", { text: text(texts.of, { score: number(record.score), threshold: number(record.threshold) }) + (record.borderline ? ` · ${texts.borderline}` : "") })),
      ...record.reasons.map((reason) => make("p", { text: reason })),
      ...(record.image_kept ? [] : [make("p", { class: "error", text: texts.no_picture })]));
    one("#earlier").replaceChildren();
    if (record.review !== "none" || record.spoken) showEarlier(record);
  }
  async function showEarlier(record) {
    let reviews = [];
    try { reviews = await get(`/api/v1/inspections/${record.id}/reviews`); } catch (error) { tellError(error); return; }
    if (list[place] !== record || !reviews.length) return;
    const last = new Map(reviews.map((one_) => [one_.account, one_.label]));
    const words = new Set([...last.values()].filter((label) => label !== "none"));
    one("#earlier").replaceChildren(make("h2", { text: texts.earlier }), ...(words.size > 1 ? [make("p", { class: "error", text: texts.disagree })] : []),
      make("ul", { class: "said" }, ...reviews.slice(-8).reverse().map((one_) => make("li", {}, verdict(one_.label), ` ${one_.account} `, timeOf(one_.time), [one_.defect_class, one_.comment].filter(Boolean).map((word) => ` · ${word}`).join("")))));
  }

  async function say(label) {
    const record = list[place];
    if (!record || saving) return;
    saving = true;
    const bad = label === "BAD";
    try {
      await post(`/api/v1/inspections/${record.id}/reviews`, { label, comment: one("#comment").value.trim(), defect_class: bad ? one("#class").value.trim() : "", regions: bad ? boxes : [] });
      said.push({ place, before: record.review });
      record.review = label;
      record.spoken = true;
      done = new Set(said.map((one_) => one_.place)).size;
      tell(text(texts.saved, { label: texts[label] }));
      place += 1;
      show();
    } catch (error) { tellError(error); }
    saving = false;
  }
  async function undo() {
    const last = said.at(-1);
    if (!last || saving) return;
    saving = true;
    try {
      await post(`/api/v1/inspections/${list[last.place].id}/reviews`, { label: last.before });
      said.pop();
      list[last.place].review = last.before;
      done = new Set(said.map((one_) => one_.place)).size;
      place = last.place;
      tell(texts.undone);
      show();
    } catch (error) { tellError(error); }
    saving = false;
  }
  const step = (by) => { place = Math.min(list.length - 1, Math.max(0, place + by)); show(); };

  // ---- drawing where

  function setDrawing(on) {
    drawing = on;
    one("#draw").setAttribute("aria-pressed", on);
    one("#drawing").hidden = !on;
    one("#clear").hidden = !boxes.length;
    look.element.classList.toggle("drawing", on);
  }
  function showBoxes(extra = []) {
    all(".mine", look.drawing).forEach((found) => found.remove());
    for (const [left, top, right, bottom] of [...boxes, ...extra]) look.drawing.append(make("rect", { class: "mine", x: left, y: top, width: right - left, height: bottom - top, "vector-effect": "non-scaling-stroke" }));
    one("#clear").hidden = !boxes.length;
  }
  let from = null;
  const at = (event) => {
    const box = look.element.getBoundingClientRect(), { width, height } = list[place];
    const within = (value, most) => Math.round(Math.min(most, Math.max(0, value)));
    return [within(width * (event.clientX - box.left) / box.width, width), within(height * (event.clientY - box.top) / box.height, height)];
  };
  const boxOf = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  look.element.addEventListener("pointerdown", (event) => { if (drawing) { event.preventDefault(); from = at(event); look.element.setPointerCapture(event.pointerId); } });
  look.element.addEventListener("pointermove", (event) => { if (from) showBoxes([boxOf(from, at(event))]); });
  look.element.addEventListener("pointerup", (event) => {
    if (!from) return;
    const box = boxOf(from, at(event));
    from = null;
    if (box[2] - box[0] > 2 && box[3] - box[1] > 2 && boxes.length < 50) boxes.push(box);
    showBoxes();
  });
  look.element.addEventListener("pointercancel", () => { from = null; showBoxes(); });

  // ---- buttons and keys

  all("[data-label]").forEach((button) => button.addEventListener("click", () => say(button.dataset.label)));
  one("#undo").addEventListener("click", undo);
  one("#back").addEventListener("click", () => step(-1));
  one("#next").addEventListener("click", () => step(1));
  one("#draw").addEventListener("click", () => setDrawing(!drawing));
  one("#clear").addEventListener("click", () => { boxes = []; showBoxes(); });
  one("#opacity").addEventListener("input", (event) => look.opacity(event.target.value / 100));
  one("#which").addEventListener("change", load);
  one("#model").addEventListener("change", load);
  document.addEventListener("goodparts:back", () => { if (!list.length) load(); });
  const KEYS = { g: () => say("GOOD"), b: () => say("BAD"), u: () => say("UNSURE"), z: undo, Backspace: undo, ArrowLeft: () => step(-1), ArrowRight: () => step(1), c: () => one("#comment").focus(), d: () => setDrawing(!drawing) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.matches("input:not([type=range]), textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
    const quick = all(".quick")[Number(event.key) - 1];
    const run = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key] || (quick && (() => quick.click()));
    if (run) { event.preventDefault(); run(); }
  });
  load();
})();
