"use strict";
// A place on a picture that is touched, or chosen with the arrow keys: what it was compared with, side by side.
function nearestGood(look, place, recordOf) {
  const { make, text, texts, number, get } = goodparts;
  const cross = make("button", { type: "button", class: "cross", "aria-label": texts.cross, title: texts.cross });
  look.element.append(cross);
  look.element.classList.add("touchable");
  let at = { x: 0.5, y: 0.5 }, asked = 0;
  const move = () => { cross.style.left = `${100 * at.x}%`; cross.style.top = `${100 * at.y}%`; };
  move();

  async function ask() {
    const record = recordOf();
    if (!record?.id || !record.image_kept) return;
    const turn = ++asked;
    const x = Math.min(record.width - 1, Math.max(0, Math.floor(at.x * record.width)));
    const y = Math.min(record.height - 1, Math.max(0, Math.floor(at.y * record.height)));
    place.hidden = false;
    place.replaceChildren(make("p", { text: texts.looking }));
    try {
      const found = await get(`/api/v1/inspections/${record.id}/nearest?x=${x}&y=${y}`);
      if (turn !== asked) return;
      const shown = [make("figure", {}, make("img", { src: found.links.image, alt: "" }), make("figcaption", { text: text(texts.touched, { x, y }) }))];
      if (found.here) {
        const [left, top, right, bottom] = found.good_box;
        const words = text(texts.nearest, { name: found.good_image, x: Math.round((left + right) / 2), y: Math.round((top + bottom) / 2) });
        shown.push(make("figure", {}, make("img", { src: found.links.good_image, alt: "" }), make("figcaption", { text: words })));
      }
      const words = [];
      if (!found.here) words.push(make("p", { text: text(texts.not_here, { name: found.good_image }) }));
      if (found.value !== null) {
        const times = found.value / found.pixel_threshold;
        words.push(make("p", { text: text(texts.times_limit, { value: number(times, 2), above: times > 1 ? texts.above : texts.below }) }));
      }
      place.replaceChildren(make("div", { class: "pair" }, ...shown), ...words);
    } catch (error) {
      if (turn === asked) place.replaceChildren(make("p", { class: "error", text: error.message }));
    }
  }
  look.element.addEventListener("click", (event) => {
    if (event.detail === 0) { ask(); return; }
    const box = look.element.getBoundingClientRect();
    at = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    move();
    ask();
  });
  cross.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    at = { x: Math.min(1, Math.max(0, at.x + 0.02 * by[0])), y: Math.min(1, Math.max(0, at.y + 0.02 * by[1])) };
    move();
  });
  return { clear() { asked += 1; place.hidden = true; place.replaceChildren(); } };
}
