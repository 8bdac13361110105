"use strict";
(() => {
  const style = getComputedStyle(document.documentElement);

  // A token such as "@survivor/0.2" names a colour of the style sheet and its opacity.
  const colour = (token) => {
    const [name, opacity] = token.slice(1).split("/");
    const hex = style.getPropertyValue("--" + name).trim();
    if (opacity === undefined) return hex;
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${opacity})`;
  };
  const TOKEN = /^@[a-z]+(-[0-9]+)?(\/[0-9.]+)?$/;
  const resolve = (value) => {
    if (typeof value === "string") return TOKEN.test(value) ? colour(value) : value;
    if (Array.isArray(value)) return value.map(resolve);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item)]));
  };

  const draw = (plot) => {
    const figure = resolve(JSON.parse(plot.nextElementSibling.textContent));
    Plot.react(plot, figure.data, figure.layout);
  };
  // A picture in a closed fold has no width yet.
  const visible = (plot) => plot.closest("details:not([open])") === null;
  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => {
    for (const plot of plots.filter(visible)) draw(plot);
    document.documentElement.dataset.drawn = plots.filter(visible).length;
  };

  for (const fold of document.querySelectorAll("details")) {
    fold.addEventListener("toggle", () => {
      if (fold.open) fold.querySelectorAll(".plot").forEach(draw);
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  // What is drawn for one width is drawn anew for another.
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) drawAll();
    width = innerWidth;
  });
  drawAll();
})();
