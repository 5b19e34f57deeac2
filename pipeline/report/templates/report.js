"use strict";
// Tables sort by a click on a heading, and long ones filter by what is typed; without scripts they are as they stand.
const number = (text) => {
  const found = text.replace(/[,\u2009\u202f ]/g, "").match(/[-\u2212]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found ? parseFloat(found[0].replace("\u2212", "-")) : NaN;
};
for (const table of document.querySelectorAll(".scroll table")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  table.querySelectorAll("th").forEach((heading, column) => {
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = Array.from(body.rows, (row) => [row.cells[column].textContent.trim(), row]);
      const numeric = heading.classList.contains("right");
      keyed.sort(([a], [b]) => {
        if (!numeric) return a.localeCompare(b, "en", { numeric: true });
        const [x, y] = [number(a), number(b)];
        return Number.isNaN(x) ? (Number.isNaN(y) ? 0 : 1) : Number.isNaN(y) ? -1 : x - y;
      });
      if (down) keyed.reverse();
      body.append(...keyed.map(([, row]) => row));
    };
    heading.tabIndex = 0;
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  if (rows.length < 12) continue;
  const filter = document.createElement("input");
  filter.type = "search";
  filter.placeholder = "Filter rows";
  filter.setAttribute("aria-label", "Filter the rows of this table");
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  table.parentElement.before(filter);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
// Structures turn with the pointer and with the arrow keys.
const turned = (points, angle, first, second) => points.map((point) => {
  const next = point.slice();
  next[first] = Math.cos(angle) * point[first] - Math.sin(angle) * point[second];
  next[second] = Math.sin(angle) * point[first] + Math.cos(angle) * point[second];
  return next;
});
for (const svg of document.querySelectorAll("svg.molecule")) {
  const scene = JSON.parse(svg.dataset.scene);
  const shapes = [];
  const balls = new Map(Array.from(svg.querySelectorAll("g"), (one) => [one.querySelector("title").textContent, one]));
  const lines = Array.from(svg.querySelectorAll("line"));
  for (const [a, b, kind] of scene.lines) {
    const line = lines.shift();
    line.setAttribute("class", kind);
    shapes.push({ node: line, depth: (p) => Math.min(p[a][2], p[b][2]) - 0.1, place: (p) => {
      [["x1", a, 0], ["y1", a, 1], ["x2", b, 0], ["y2", b, 1]].forEach(([name, k, axis]) => line.setAttribute(name, p[k][axis].toFixed(1)));
    } });
  }
  scene.atoms.forEach((title, k) => {
    const node = balls.get(title);
    const place = (p) => node.setAttribute("transform", `translate(${p[k][0].toFixed(1)} ${p[k][1].toFixed(1)})`);
    shapes.push({ node, depth: (p) => p[k][2], place });
  });
  const draw = () => {
    shapes.forEach((shape) => shape.place(scene.points));
    shapes.sort((a, b) => a.depth(scene.points) - b.depth(scene.points));
    svg.append(...shapes.map((shape) => shape.node));
  };
  const turn = (across, down) => {
    scene.points = turned(turned(scene.points, across, 2, 0), down, 2, 1);
    draw();
  };
  draw();
  let last = null;
  svg.addEventListener("pointerdown", (event) => { last = [event.clientX, event.clientY]; svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", (event) => {
    if (last === null) return;
    turn((event.clientX - last[0]) / 80, (event.clientY - last[1]) / 80);
    last = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => { last = null; });
  const keys = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] };
  svg.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    turn(...keys[event.key]);
  });
}
