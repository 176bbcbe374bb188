"use strict";
// What leads to an arm's runs opens their list, and marks all of them.
(() => {
  function point() {
    for (const row of document.querySelectorAll("tr.pointed")) row.classList.remove("pointed");
    const first = document.getElementById(location.hash.slice(1));
    if (!first?.matches("#cells tr")) return;
    first.closest("details").open = true;
    for (const row of document.querySelectorAll("#cells tr")) row.classList.toggle("pointed", row.dataset.arm === first.dataset.arm);
    first.scrollIntoView();
  }

  addEventListener("hashchange", point);
  point();
})();

// Filters: an arm is shown where every column has its value among the chosen ones, in tables and in drawings.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const arms = JSON.parse(document.getElementById("arms").textContent);
  const boxes = [...form.querySelectorAll("input")];

  function apply() {
    const chosen = new Map(boxes.map((box) => [box.name, new Set()]));
    for (const box of boxes) if (box.checked) chosen.get(box.name).add(box.value);
    const kept = new Set(arms.filter(({ names }) => [...chosen].every(([name, values]) => values.has(names[name]))).map(({ arm }) => arm));
    for (const row of document.querySelectorAll("[data-arm]")) row.hidden = !kept.has(row.dataset.arm);
    form.querySelector("output").textContent = kept.size < arms.length ? `${kept.size} of ${arms.length} arms` : "";
    form.querySelector("[type=reset]").hidden = kept.size === arms.length;
    tlx.keep = (row) => row.arm === undefined || kept.has(row.arm);
    tlx.redraw();
  }

  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));
})();
