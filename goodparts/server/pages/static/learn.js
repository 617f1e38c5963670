"use strict";
(() => {
  const { one, all, texts, text, make, number, bytes, get, post, ask, fill, tell, tellError } = goodparts;
  const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, IMAGE = /\.(png|jpe?g|bmp|tiff?|webp|gif|pgm|ppm|pnm|jp2)$/i;
  const AT_ONCE = 16, MOST = 24e6; // images and bytes of one request
  const choice = one("#model");
  let state = null, watching = null, sending = false;
  const isNew = () => !choice.value;
  const name = () => choice.value || one("#name").value.trim();
  const place = () => `/api/v1/learning/${encodeURIComponent(name())}`;
  const show = (id, on) => { one(id).hidden = !on; };

  // ---- what there is

  async function look() {
    show("#name-field", isNew());
    if (!NAME.test(name())) { tell(texts.bad_name, "error"); return; }
    state = await get(place());
    const { images, job } = state, running = job?.state === "running";
    one("#count").textContent = images ? text(texts.count, { n: number(images, 0), size: bytes(state.bytes) }) : "";
    show("#clear", images && !running);
    show("#reviewed-field", state.serves && state.reviewed_good > 0);
    one("#reviewed-words").textContent = text(texts.reviewed, { n: state.reviewed_good });
    const more = one("#reviewed").checked && state.serves ? state.reviewed_good : 0;
    show("#step-images", !running);
    show("#step-check", images && !running);
    show("#step-learn", (images || more) && !running && !sending);
    show("#preset-field", !state.serves);
    show("#step-running", running);
    one("#start").textContent = state.serves ? text(texts.learn_on, { n: number(images + more, 0) }) : text(texts.learn_new, { name: name() });
    const chosen = one("#preset").value;
    one("#preset").replaceChildren(...state.presets.map((preset) => make("option", { value: preset, text: texts[`preset_${preset}`] || preset })));
    if (chosen) one("#preset").value = chosen;
    if (running) watch();
  }
  async function check() {
    if (!state?.images) return;
    one("#findings").replaceChildren(make("p", { text: texts.checking }));
    try {
      const found = await get(`${place()}/check`);
      one("#findings").replaceChildren(...(found.length ? [make("ul", { class: "said" }, ...found.map((finding) =>
        make("li", {}, make("strong", { class: `finding ${finding.severity}`, text: texts[finding.severity] }), ` ${finding.message}`)))] : [make("p", { text: `✓ ${texts.ready}` })]));
      one("#start").disabled = found.some((finding) => finding.severity === "error");
    } catch (error) {
      one("#findings").replaceChildren(make("p", { class: "error", text: error.message }));
    }
  }
  const load = () => fill(one("#place"), async () => {
    show("#step-done", false);
    one("#start").disabled = false;
    await look();
    if (state?.job?.state === "done" && !state.images) await done();
    await check();
  });

  // ---- sending images

  async function send(files) {
    const images = files.filter((file) => IMAGE.test(file.name) || file.type.startsWith("image/"));
    if (!images.length) { tell(texts.no_images, "error"); return; }
    if (!NAME.test(name())) { tell(texts.bad_name, "error"); return; }
    sending = true;
    const sent = one("#sent");
    sent.hidden = false;
    show("#step-done", false);
    try {
      for (let at = 0; at < images.length;) {
        const form = new FormData();
        let size = 0, n = 0;
        while (at + n < images.length && n < AT_ONCE && (n === 0 || size + images[at + n].size < MOST)) {
          form.append("image", images[at + n], images[at + n].name);
          size += images[at + n].size;
          n += 1;
        }
        await ask("POST", `${place()}/images`, form);
        at += n;
        sent.value = at / images.length;
        one("#count").textContent = text(texts.sending, { done: number(at, 0), all: number(images.length, 0) });
      }
    } catch (error) { tellError(error); }
    sending = false;
    sent.hidden = true;
    try { await look(); await check(); } catch (error) { tellError(error); }
  }
  function nameAfter(folder) {
    const clean = (folder || "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[._-]+/, "").slice(0, 64);
    if (isNew() && clean && !/^(good|train|test|images|pictures|new)$/i.test(clean) && one("#name").value === "part" && ![...choice.options].some((option) => option.value === clean)) one("#name").value = clean;
  }
  one("#folder").addEventListener("change", (event) => {
    const files = [...event.target.files];
    nameAfter(files[0]?.webkitRelativePath.split("/")[0]);
    send(files);
    event.target.value = "";
  });
  one("#files").addEventListener("change", (event) => { send([...event.target.files]); event.target.value = ""; });
  const drop = one("#drop");
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  // A folder that is dropped is read through, folders in it as well.
  async function filesOf(entry) {
    if (entry.isFile) return [await new Promise((done_, failed) => entry.file(done_, failed))];
    const reader = entry.createReader(), found = [];
    for (;;) {
      const some = await new Promise((done_, failed) => reader.readEntries(done_, failed));
      if (!some.length) return found;
      for (const inner of some) found.push(...await filesOf(inner));
    }
  }
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...event.dataTransfer.files];
    nameAfter(entries.find((entry) => entry.isDirectory)?.name);
    send(entries.length ? (await Promise.all(entries.map(filesOf))).flat() : plain);
  });

  // ---- learning

  one("#start").addEventListener("click", async () => {
    one("#start").disabled = true;
    try {
      await post(place(), { preset: state.serves ? null : one("#preset").value, reviewed: state.serves && one("#reviewed").checked });
      await look();
    } catch (error) { tellError(error); }
    one("#start").disabled = false;
  });
  function watch() {
    if (watching) return;
    watching = setInterval(async () => {
      let job;
      try { ({ job } = await get(place())); } catch { return; } // the banner says so; it goes on when it is back
      if (job?.state === "running") {
        const bar = one("#progress");
        if (job.total) bar.value = job.done / job.total; else bar.removeAttribute("value");
        const left = job.left === null ? "" : text(texts.left, { time: job.left < 90 ? text(texts.seconds, { n: Math.ceil(job.left) }) : text(texts.minutes, { n: Math.round(job.left / 60) }) });
        one("#stage").textContent = [job.total ? text(texts.stage, { stage: texts.stages[job.stage] || job.stage, done: number(job.done, 0), total: number(job.total, 0) }) : texts.stages.load, left].filter(Boolean).join(", ");
        return;
      }
      clearInterval(watching);
      watching = null;
      await fill(one("#place"), async () => {
        await look();
        if (job?.state === "failed") { show("#step-check", true); one("#findings").replaceChildren(make("p", { class: "error", role: "alert", text: `${texts.failed}: ${job.message}` })); }
        if (job?.state === "stopped") tell(texts.stopped);
        if (job?.state === "done") await done();
      });
    }, 700);
  }
  one("#stop").addEventListener("click", () => post(`${place()}/stop`).catch(tellError));

  async function done() {
    const { job } = state, serves = state.serves;
    if (serves) {
      const active = (await get(`/api/v1/models/${encodeURIComponent(name())}`)).version;
      if (active === job.version) return; // it serves already
    }
    show("#step-done", true);
    show("#after", false);
    show("#activate", true);
    show("#leave", true);
    one("#done-title").textContent = text(texts.done, { name: name(), seconds: number(job.seconds, 0) });
    one("#done-words").textContent = serves && job.before ? texts.done_on : texts.done_new;
    one("#compared").replaceChildren();
    if (serves && job.before) await fill(one("#compared"), () => modelCard.compare(one("#compared"), name(), [texts.before, texts.after], [job.before, job.version]));
    await modelCard.show(one("#card"), name(), job.version);
    one("#step-done").scrollIntoView({ block: "start" });
    one("#activate").focus();
  }
  one("#activate").addEventListener("click", async () => {
    const { job } = state, model = name();
    try {
      await post(`/api/v1/models/${encodeURIComponent(model)}/activate`, { version: job.version });
      show("#activate", false);
      show("#leave", false);
      show("#after", true);
      show("#back", Boolean(job.before));
      if (isNew()) {
        choice.prepend(make("option", { text: model }));
        choice.value = model;
        show("#name-field", false);
      }
      try { localStorage.setItem("model", model); } catch { /* not allowed */ }
    } catch (error) { tellError(error); }
  });
  one("#back").addEventListener("click", async () => {
    try {
      await post(`/api/v1/models/${encodeURIComponent(name())}/activate`, { version: state.job.before });
      show("#step-done", false);
      tell(texts.back_done);
    } catch (error) { tellError(error); }
  });
  one("#leave").addEventListener("click", () => show("#step-done", false));
  one("#clear").addEventListener("click", async () => {
    try { await ask("DELETE", `${place()}/images`); await look(); } catch (error) { tellError(error); }
  });
  choice.addEventListener("change", load);
  one("#name").addEventListener("change", load);
  one("#reviewed").addEventListener("change", () => look().catch(tellError));
  load();
})();
