// An image after each of its scales: a slider, play, and a token that is chosen with mouse or keyboard.
// The event `select` says which token was.
const find = selector => element.querySelector(selector);
const PACE = 700;
let scale = 0, at = null, timer = 0, known = "";

function show(number) {
  const images = [...element.querySelectorAll(".tokens img")], image = images[number - 1];
  if (!image) return;
  if (scale !== number) at = null;
  scale = number;
  images.forEach(one => (one.hidden = one !== image));
  const { rows, columns, says } = image.dataset;
  find(".lines").style.backgroundSize = `${100 / columns}% ${100 / rows}%`;
  find("input").value = number;
  find("input").setAttribute("aria-valuetext", says);
  find(".now").textContent = says;
  const marker = find(".marker");
  marker.hidden = !at;
  if (at)
    marker.style.cssText =
      `width:${100 / columns}%;height:${100 / rows}%;left:${(100 * at.column) / columns}%;top:${(100 * at.row) / rows}%`;
}

function move(row, column) {
  const { rows, columns } = find(".tokens img:not([hidden])").dataset;
  const within = (value, most) => Math.min(most - 1, Math.max(0, value));
  at = { row: within(row, rows), column: within(column, columns) };
  show(scale);
}

function play(on) {
  clearInterval(timer);
  const button = find(".play"), last = Number(find("input").max);
  button.textContent = on ? "Stop" : "Play";
  if (!on) return;
  show(1);
  timer = setInterval(() => (scale < last ? show(scale + 1) : play(false)), PACE);
}

element.addEventListener("input", event => {
  play(false);
  show(Number(event.target.value));
});
element.addEventListener("click", event => {
  if (event.target.closest(".play")) play(event.target.textContent === "Play");
  const tokens = event.target.closest(".tokens");
  if (!tokens) return;
  play(false);
  const box = tokens.getBoundingClientRect(), { rows, columns } = find(".tokens img:not([hidden])").dataset;
  move(
    Math.floor(((event.clientY - box.top) * rows) / box.height),
    Math.floor(((event.clientX - box.left) * columns) / box.width),
  );
  trigger("select", { scale: scale - 1, ...at });
});
element.addEventListener("keydown", event => {
  if (!event.target.closest(".tokens")) return;
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (step) at ? move(at.row + step[0], at.column + step[1]) : move(0, 0);
  else if (event.key === " " || event.key === "Enter") {
    if (!at) move(0, 0);
    trigger("select", { scale: scale - 1, ...at });
  } else return;
  event.preventDefault();
});

// Another image has come from the server.
function open() {
  const name = find(".stage")?.dataset.name;
  if (!name || name === known) return;
  known = name;
  play(false);
  show(Number(find("input").max));
  move(Number(find(".stage").dataset.row), Number(find(".stage").dataset.column));
}
new MutationObserver(open).observe(element, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-name"] });
open();
