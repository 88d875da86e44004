// Points of charts say what they are when they are pointed at; one that stands for an architecture shows it on a click.
"use strict";
(() => {
  const NEAR = 28; // pixels between a pointer and the mark that it means
  const tip = document.getElementById("tip");
  const chosen = document.getElementById("chosen");
  const content = document.getElementById("data");
  const architectures = content
    ? new Map(JSON.parse(content.textContent).map((one) => [one.key, one]))
    : new Map();

  const middle = (mark) => {
    const box = (mark.tagName === "svg" ? mark.firstElementChild : mark).getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };

  function tell(mark) {
    document.querySelectorAll(".near").forEach((other) => other.classList.remove("near"));
    tip.hidden = !mark;
    if (!mark) return;
    mark.classList.add("near");
    tip.textContent = mark.dataset.text;
    const [x, y] = middle(mark);
    const { width, height } = tip.getBoundingClientRect();
    const most = document.documentElement.clientWidth - width - 8;
    tip.style.left = `${window.scrollX + Math.max(8, Math.min(x - width / 2, most))}px`;
    tip.style.top = `${window.scrollY + (y - height - 14 > 0 ? y - height - 14 : y + 14)}px`;
  }

  function setFacts(list, facts) {
    list.replaceChildren(...Object.entries(facts).map(([name, value]) => {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      row.firstChild.textContent = name;
      row.lastChild.textContent = value;
      return row;
    }));
  }

  function show(key) {
    const one = architectures.get(key);
    if (!one) return;
    chosen.querySelector("h3 code").textContent = key;
    chosen.querySelector("h3 span").textContent = one.title;
    setFacts(chosen.querySelector("dl"), one.facts);
    const layers = document.getElementById("layers").content.firstElementChild.children;
    chosen.querySelector(".network").replaceChildren(...one.parts.map((number) => layers[number].cloneNode(true)));
    chosen.querySelector(".legend-of-layers").hidden = !one.parts.length;
    chosen.querySelector(".no-drawing").hidden = one.parts.length > 0;
    chosen.querySelector(".command").textContent = one.command;
    document.querySelectorAll("[data-key]").forEach((mark) => mark.classList.toggle("picked", mark.dataset.key === key));
  }

  // A chart is one stop of the tab key; the arrow keys go from mark to mark.
  function enliven(area) {
    const marks = [...area.querySelectorAll(".mark")];
    if (!marks.length) return;
    let now = null;
    const point = (mark) => { now = mark; tell(mark); };
    const nearest = (event) => {
      const distance = (mark) => Math.hypot(middle(mark)[0] - event.clientX, middle(mark)[1] - event.clientY);
      if (event.target.closest(".cell")) return event.target.closest(".cell");
      const [least, mark] = marks.map((each) => [distance(each), each]).reduce((a, b) => (b[0] < a[0] ? b : a));
      return least < NEAR ? mark : null;
    };
    for (const mark of marks) {
      const title = mark.querySelector("title");
      mark.dataset.text = title.textContent;
      title.remove(); // else the browser shows it, too
    }
    const inOrder = marks.some((mark) => mark.matches(".cell")) ? marks : [...marks].sort((a, b) => middle(a)[0] - middle(b)[0]);
    area.tabIndex = 0;
    area.addEventListener("pointermove", (event) => point(nearest(event)));
    area.addEventListener("pointerleave", () => point(null));
    area.addEventListener("blur", () => point(null));
    area.addEventListener("click", (event) => { point(nearest(event)); if (now) show(now.dataset.key); });
    area.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (step) point(inOrder[(inOrder.indexOf(now) + step + inOrder.length) % inOrder.length] || inOrder[0]);
      else if (event.key === "Escape") point(null);
      else if (event.key === "Enter" && now) show(now.dataset.key);
      else return;
      event.preventDefault();
    });
  }

  function makePickable(row) {
    if (!architectures.has(row.dataset.key)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...row.cells[0].childNodes);
    row.cells[0].append(button);
    row.classList.add("pick");
    row.addEventListener("click", () => show(row.dataset.key));
  }

  document.querySelectorAll(".area").forEach(enliven);
  document.querySelectorAll("tr[data-key]").forEach(makePickable);
  document.querySelectorAll(".for-program").forEach((each) => { each.hidden = false; });
  if (architectures.size) show(architectures.keys().next().value);

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((each) => { each.open = true; });
  });
  window.addEventListener("afterprint", () => closed.forEach((each) => { each.open = false; }));
})();
