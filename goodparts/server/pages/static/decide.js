"use strict";
(() => {
  const { one, texts, text, make, number, percent, get, post, fill, tell, tellError } = goodparts;
  const work = one("#work");
  if (!work) return;
  const slider = one("#slider"), field = one("#number"), STEPS = 1000;
  let facts = null, threshold = 0, low = 0, high = 1, before = null;
  const place = () => `/api/v1/models/${encodeURIComponent(one("#model").value)}`;

  const load = () => fill(one("#place"), async () => {
    work.hidden = true;
    facts = await get(`${place()}/decision`);
    work.hidden = false;
    const every = [...facts.good_scores, ...facts.parts.map((part) => part.score), facts.threshold];
    const least = Math.min(...every), most = Math.max(...every), room = 0.08 * (most - least || 1);
    low = Math.max(0, least - room);
    high = most + room;
    slider.min = 0;
    slider.max = STEPS;
    field.step = "any";
    one("#now").textContent = text(texts.now, { value: number(facts.threshold, 4), rule: facts.rule });
    for (const control of [slider, field, ...one("#save").elements]) control.disabled = facts.zones > 0;
    if (facts.zones) tell(texts.zones);
    plot();
    set(facts.threshold);
  });

  // ---- one line of scores: good images above, reviewed good and bad ones below

  const WIDTH = 1000, x = (score) => 40 + (WIDTH - 80) * (score - low) / (high - low || 1);
  function plot() {
    const rows = [
      [texts.held_out, facts.good_scores, "good", 34],
      [texts.reviewed_good, facts.parts.filter((part) => part.label === "GOOD").map((part) => part.score), "good", 84],
      [texts.reviewed_bad, facts.parts.filter((part) => part.label === "BAD").map((part) => part.score), "bad", 134],
    ];
    const drawing = make("svg", { viewBox: `0 0 ${WIDTH} 178`, role: "img", "aria-label": texts.plot });
    const words = (name, about, value) => { const made = document.createElementNS("http://www.w3.org/2000/svg", "text"); for (const [key, one_] of Object.entries(about)) made.setAttribute(key, one_); made.textContent = value; drawing.append(made); return made; };
    rows.forEach(([name, scores, kind, y]) => {
      words("text", { x: 4, y: y - 14 }, `${name} (${scores.length})`);
      for (const score of scores) {
        drawing.append(kind === "bad"
          ? make("path", { class: "bad", d: `M${x(score) - 6} ${y - 6}l12 12m0 -12l-12 12` })
          : make("circle", { class: "good", cx: x(score), cy: y, r: 5 }));
      }
    });
    for (let step = 0; step <= 5; step += 1) {
      const score = low + (high - low) * step / 5;
      words("text", { x: x(score), y: 174, "text-anchor": "middle" }, number(score, 2));
    }
    drawing.append(make("line", { id: "mark", y1: 4, y2: 156 }));
    one("#plot").replaceChildren(drawing);
  }

  function set(value) {
    threshold = value;
    slider.value = Math.round(STEPS * (value - low) / (high - low || 1));
    slider.setAttribute("aria-valuetext", number(value, 4));
    if (document.activeElement !== field) field.value = value.toFixed(4);
    const mark = one("#mark");
    mark.setAttribute("x1", x(value));
    mark.setAttribute("x2", x(value));
    good();
    matrix();
    roc();
  }
  function good() {
    const n = facts.good_images, k = Math.min(n, facts.good_scores.filter((score) => score > threshold).length), bound = facts.bounds[k];
    one("#good").replaceChildren(
      make("p", { class: "big", text: text(texts.false_rejects, { k, n, share: percent(n ? k / n : 0) }) }),
      make("p", { text: bound === undefined ? texts.no_bound : text(texts.bound, { rate: percent(bound, 2), confidence: percent(facts.confidence, 0) }) }),
      make("p", { class: "soft", text: facts.certified ? texts.certified : texts.estimated }));
  }
  const split = () => {
    const good_ = facts.parts.filter((part) => part.label === "GOOD"), bad = facts.parts.filter((part) => part.label === "BAD");
    return { good: good_, bad };
  };
  function matrix() {
    const { good: good_, bad } = split(), above = (parts) => parts.filter((part) => part.score > threshold).length;
    if (!facts.parts.length) { one("#matrix").replaceChildren(make("p", { text: texts.none_reviewed })); return; }
    const fp = above(good_), tp = above(bad);
    const cell = (n, wrong) => make("td", { class: `number ${wrong && n ? "wrong" : ""}`, text: number(n, 0) });
    one("#matrix").replaceChildren(
      make("p", { class: "big", text: text(texts.missed, { k: bad.length - tp, n: bad.length }) }),
      make("p", { class: "big", text: text(texts.rejected, { k: fp, n: good_.length }) }),
      make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col", text: texts.truth }), make("th", { scope: "col", class: "number", text: `${texts.said} ${texts.GOOD}` }), make("th", { scope: "col", class: "number", text: `${texts.said} ${texts.BAD}` }))),
        make("tbody", {},
          make("tr", {}, make("th", { scope: "row", text: `✓ ${texts.GOOD}` }), cell(good_.length - fp, false), cell(fp, true)),
          make("tr", {}, make("th", { scope: "row", text: `✕ ${texts.BAD}` }), cell(bad.length - tp, true), cell(tp, false)))),
      ...(facts.left_out ? [make("p", { class: "soft", text: text(texts.left_out, { n: facts.left_out }) })] : []));
  }
  function roc() {
    const { good: good_, bad } = split();
    if (!good_.length || !bad.length) { one("#roc").replaceChildren(make("p", { text: texts.need_both })); return; }
    const share = (parts, at) => parts.filter((part) => part.score > at).length / parts.length;
    const steps = [Infinity, ...facts.parts.map((part) => part.score).sort((a, b) => b - a), -1];
    const points = steps.map((at) => `${10 + 180 * share(good_, at)},${190 - 180 * share(bad, at)}`).join(" ");
    const here = { false: share(good_, threshold), found: share(bad, threshold) };
    const words = text(texts.found, { found: percent(here.found), false: percent(here.false) });
    one("#roc").replaceChildren(
      make("svg", { viewBox: "0 0 200 200", role: "img", "aria-label": words },
        make("rect", { x: 10, y: 10, width: 180, height: 180, class: "frame" }), make("line", { x1: 10, y1: 190, x2: 190, y2: 10, class: "chance" }),
        make("polyline", { points, class: "curve" }), make("circle", { cx: 10 + 180 * here.false, cy: 190 - 180 * here.found, r: 6, class: "here" })),
      make("p", { text: words }));
  }

  // ---- choosing and saving

  slider.addEventListener("input", () => set(low + (high - low) * slider.value / STEPS));
  field.addEventListener("input", () => { const value = field.valueAsNumber; if (value > 0) set(value); });
  one("#reset").addEventListener("click", () => set(facts.threshold));
  one("#save").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = one("#save .button");
    button.disabled = true;
    try {
      const made = await post(`${place()}/threshold`, { threshold: Number(threshold.toFixed(6)), reason: one("#save").reason.value });
      before = made.before;
      one("#undo").hidden = false;
      one("#save").reason.value = "";
      tell(texts.saved);
      await load();
    } catch (error) { tellError(error); }
    button.disabled = false;
  });
  one("#undo").addEventListener("click", async () => {
    try {
      await post(`${place()}/activate`, { version: before });
      one("#undo").hidden = true;
      tell(texts.undone);
      await load();
    } catch (error) { tellError(error); }
  });
  one("#model").addEventListener("change", () => { one("#undo").hidden = true; load(); });
  load();
})();
