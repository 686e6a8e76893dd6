// One feature: its numbers, its plane, its samples, and the features that belong to it.
const shown = { feature: null, points: [], current: null };

const pictureOf = (sample, hue) => {
  const source = data.pictures[table.document[sample]];
  if (!source) return null;
  const box = element("span", { class: "patch", tint: tintOf(hue) });
  box.append(element("img", { src: source, alt: shortTextOf(sample) }));
  const patch = table.patch[sample];
  if (patch) {
    const [row, column, rows, across] = patch;
    const mark = element("i");
    mark.style.left = `${100 * column / across}%`;
    mark.style.top = `${100 * row / rows}%`;
    mark.style.width = `${100 / across}%`;
    mark.style.height = `${100 / rows}%`;
    box.append(mark);
  }
  return box;
};

const readingOf = (point) => {
  const { sample, hue } = point;
  const parts = [];
  const picture = table.kind === "patches" ? pictureOf(sample, hue) : null;
  if (picture) parts.push(picture);
  if (table.token) {
    const text = element("div", { class: "context", dir: "auto", tint: tintOf(hue) });
    const token = table.token[sample] || "no text";
    text.append(table.before[sample], element("mark", {}, token), table.after[sample]);
    parts.push(text);
  }
  const where = element("div", { class: "where" });
  where.append(`${whereOf(sample)} · strength ${number(point.strength)} · ${hue.toFixed(0)}°`);
  return [...parts, where];
};

const show = (point) => {
  shown.current = point;
  drawPlane(byId("plane"), shown.feature, shown.points, point);
  const hint = element("div", { class: "where" }, "Point at a sample in the plane, or step through the samples with ← and →.");
  byId("reading").replaceChildren(...(point ? readingOf(point) : [hint]));
  for (const line of byId("samples").children) line.classList.toggle("now", Boolean(point) && line.point === point);
};

const lineOf = (point) => {
  const { sample, hue } = point;
  const line = element("li", { tint: tintOf(hue) });
  line.point = point;
  const picture = table.kind === "patches" ? pictureOf(sample, hue) : null;
  if (picture) {
    line.append(picture);
  } else if (table.token && table.kind !== "rows") {
    const text = element("span", { class: "line" });
    text.append(
      element("span", { class: "left" }, element("bdi", {}, table.before[sample])),
      element("mark", {}, table.token[sample] || "no text"),
      element("bdi", { class: "right" }, table.after[sample]),
    );
    line.append(element("span", { class: "dot" }), text);
  } else {
    line.append(element("span", { class: "dot" }), element("bdi", {}, shortTextOf(sample)));
  }
  line.addEventListener("pointerenter", () => show(point));
  line.addEventListener("click", () => show(point));
  return line;
};

const linksOf = (box, column, count, describe, none) => {
  const links = [];
  for (let place = shown.feature * count; place < (shown.feature + 1) * count; place += 1) {
    const other = columns[column][place];
    if (other >= 0) {
      const link = element("button", { type: "button", "data-feature": other }, `#${other}`, element("span", {}, describe(place)));
      link.addEventListener("click", () => select(other));
      links.push(link);
    }
  }
  box.replaceChildren(...(links.length ? links : [element("p", {}, none)]));
};

const factsOf = (feature) => [
  [percent(columns.frequency[feature]), "of the samples"],
  [number(columns.strength[feature]), "mean strength"],
  [`${columns.dimension[feature].toFixed(2)} of ${n}`, "effective dimension"],
  [percent(columns.dimension[feature] / n), "utilisation"],
  [percent(columns.share[feature]), "power in the plane"],
  [columns.circularity[feature].toFixed(2), "circularity"],
];

const showFeature = (feature) => {
  shown.feature = feature;
  shown.points = pointsOf(feature);
  const dead = columns.frequency[feature] === 0;
  byId("name").textContent = `Feature ${feature}${dead ? ", dead" : ""}`;
  byId("facts").replaceChildren(...factsOf(feature).map(
    ([value, text]) => element("div", { class: "number" }, element("b", {}, value), element("span", {}, text)),
  ));
  byId("plane").setAttribute("aria-label", `${shown.points.length} samples of feature ${feature} in its principal plane`);
  const drawn = shown.points.length;
  const all = Math.round(columns.frequency[feature] * sampleCount);
  byId("axes").textContent = dead
    ? `No sample of ${sampleCount} uses this feature.`
    : `Codes of ${drawn < all ? `${drawn} of ` : ""}${all} samples in the two directions of largest power. Hue is the angle; large points are listed.`;
  const listed = shown.points.filter((point) => point.listed);
  byId("samples").classList.toggle("pictures", listed.some(({ sample }) => table.kind === "patches" && data.pictures[table.document[sample]]));
  byId("samples").replaceChildren(...listed.map(lineOf));
  byId("strengths").replaceChildren(...(dead ? [] : [drawHistogram(feature)]));
  byId("strengths-caption").textContent = dead ? "" : "number of samples by strength ‖a‖";
  linksOf(
    byId("near"), "near", neighbours,
    (place) => {
      const angles = [columns.smallest[place], columns.furthest[place]].map((angle) => `${angle.toFixed(0)}°`);
      return `cos² ${columns.overlap[place].toFixed(2)} · ${[...new Set(angles)].join("–")}`;
    },
    "No other subspace.",
  );
  linksOf(
    byId("together"), "together", partners,
    (place) => `${percent(columns.conditional[place])} · ${number(columns.lift[place])} ×`,
    "None more often than by chance.",
  );
  show(null);
};

const nearestPoint = (event) => {
  const canvas = byId("plane");
  const { place } = planeGeometry(canvas, shown.feature);
  const box = canvas.getBoundingClientRect();
  let [best, least] = [null, 24 ** 2];
  for (const point of shown.points) {
    const [x, y] = place(point);
    const distance = (event.clientX - box.left - x) ** 2 + (event.clientY - box.top - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
};

const walk = (by) => {
  const round = [...shown.points].sort((one, other) => one.hue - other.hue);
  if (!round.length) return;
  const place = shown.current ? round.indexOf(shown.current) + by : by > 0 ? 0 : -1;
  show(round[(place + round.length) % round.length]);
};

for (const kind of ["pointermove", "pointerdown"]) {
  byId("plane").addEventListener(kind, (event) => {
    const point = nearestPoint(event);
    if (point && point !== shown.current) show(point);
  });
}
