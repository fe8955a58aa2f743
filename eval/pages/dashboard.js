"use strict";
// Curves: values under the pointer or the cursor of the arrow keys, and lines that a legend hides.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const readout = chart.querySelector(".readout");
  const lines = [...svg.querySelectorAll(".line")].map((group) => ({
    group,
    name: group.dataset.name,
    colour: group.style.getPropertyValue("--line"),
    points: JSON.parse(group.dataset.points), // [x, y, x and y in the drawing]
  }));
  const places = () =>
    [...new Set(shown().flatMap((line) => line.points.map((point) => point[2])))].sort((a, b) => a - b);
  const shown = () => lines.filter((line) => !line.group.classList.contains("off"));
  let at = -1;

  function show(place) {
    at = place;
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.setAttribute("visibility", "visible");
    readout.textContent = "";
    let x = null;
    for (const line of shown()) {
      const near = line.points.reduce(
        (best, point) => (best && Math.abs(best[2] - place) <= Math.abs(point[2] - place) ? best : point), null);
      if (!near || Math.abs(near[2] - place) > 6) continue; // it has no value here
      if (x === null) {
        x = near[0];
        readout.append(`${x.toLocaleString("en")} ${readout.dataset.x}:`);
      }
      const dot = document.createElement("i");
      dot.style.background = line.colour;
      readout.append(dot, `${line.name} ${Number(near[1].toPrecision(4))}`);
    }
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const all = places();
    if (all.length) show(all.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best)));
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const all = places();
    if (!step || !all.length) return;
    event.preventDefault();
    const now = all.findIndex((place) => place >= at);
    const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : (now < 0 ? all.length - 1 : now) + step;
    show(all[Math.min(all.length - 1, Math.max(0, next))]);
  });
  for (const button of chart.querySelectorAll(".names button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      lines[Number(button.dataset.line)].group.classList.toggle("off", !on);
      if (at >= 0) show(at);
    });
  }
}
