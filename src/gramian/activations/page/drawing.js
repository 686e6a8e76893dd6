// Drawing: points in a plane, bars, curves, and all features at once.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const SVG = "http://www.w3.org/2000/svg";

const svg = (tag, options, ...children) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(options)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const penOf = (canvas, width, height) => {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
};

const dot = (pen, x, y, radius) => {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
};

// Small plane for the list.
const drawSmallPlane = (canvas, feature) => {
  const side = 42;
  const pen = penOf(canvas, side, side);
  const reach = columns.limit[feature] || 1;
  pen.fillStyle = colour("--line");
  dot(pen, side / 2, side / 2, 1);
  for (const { x, y, hue } of pointsOf(feature).filter((_, place) => place % 2 === 0)) {
    pen.fillStyle = tintOf(hue);
    dot(pen, side / 2 + x / reach * (side / 2 - 3), side / 2 - y / reach * (side / 2 - 3), 1.4);
  }
};

// Place of a point in the large plane, in CSS pixels.
const planeGeometry = (canvas, feature) => {
  const side = canvas.clientWidth || 320;
  const reach = (columns.limit[feature] || 1) * 1.12;
  return { side, place: ({ x, y }) => [side / 2 + x / reach * side / 2, side / 2 - y / reach * side / 2] };
};

const drawPlane = (canvas, feature, points, current) => {
  const { side, place } = planeGeometry(canvas, feature);
  const pen = penOf(canvas, side, side);
  pen.strokeStyle = colour("--line");
  pen.beginPath();
  pen.moveTo(0, side / 2);
  pen.lineTo(side, side / 2);
  pen.moveTo(side / 2, 0);
  pen.lineTo(side / 2, side);
  pen.stroke();
  for (const point of points) {
    pen.globalAlpha = point.listed ? 1 : 0.55;
    pen.fillStyle = tintOf(point.hue);
    dot(pen, ...place(point), point.listed ? 5 : 3);
  }
  pen.globalAlpha = 1;
  if (current) {
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(...place(current), 8.5, 0, 2 * Math.PI);
    pen.stroke();
  }
};

const drawHistogram = (feature) => {
  const width = 240;
  const height = 110;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": "histogram of amplitudes" });
  for (let bin = 0; bin < bins; bin += 1) {
    const tall = columns.histogram[feature * bins + bin] / 255 * (height - 12);
    if (tall > 0) {
      picture.append(svg("rect", {
        x: bin * width / bins + 0.5, y: height - Math.max(tall, 1), width: width / bins - 1, height: Math.max(tall, 1), rx: 1,
      }));
    }
  }
  picture.append(svg("line", { x1: 0, x2: width, y1: height, y2: height, stroke: "currentColor", opacity: 0.3 }));
  picture.append(svg("text", { class: "axis", x: 0, y: height + 12 }, "0"));
  picture.append(svg("text", { class: "axis", x: width, y: height + 12, "text-anchor": "end" }, number(columns.largest[feature])));
  picture.append(svg("text", { class: "axis", x: 0, y: 9 }, `${columns.tallest[feature]}`));
  return picture;
};

const drawCurve = (name, steps, values) => {
  const width = 240;
  const height = 100;
  const known = values.map((value, place) => [steps[place], value]).filter(([, value]) => value !== null);
  const figure = element("figure");
  if (!known.length) return figure;
  const numbers = known.map(([, value]) => value);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const [first, last] = [known[0][0], known[known.length - 1][0]];
  const across = (step) => (step - first) / (last - first || 1) * width;
  const up = (value) => height - 8 - (value - low) / (high - low || 1) * (height - 24);
  const path = known.map(([step, value], place) => `${place ? "L" : "M"}${across(step).toFixed(1)} ${up(value).toFixed(1)}`).join("");
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": `${name} over the steps` });
  picture.append(svg("line", { x1: 0, x2: width, y1: height, y2: height, stroke: "currentColor", opacity: 0.3 }));
  picture.append(svg("path", { d: path, fill: "none", stroke: colour("--accent"), "stroke-width": 1.8, "stroke-linejoin": "round" }));
  picture.append(svg("text", { class: "axis", x: 0, y: 9 }, `${number(numbers[0])} → ${number(numbers[numbers.length - 1])}`));
  picture.append(svg("text", { class: "axis", x: width, y: height + 12, "text-anchor": "end" }, `step ${last}`));
  figure.append(picture, element("figcaption", {}, name));
  return figure;
};

// All features: frequency on a logarithmic axis, effective dimension, circularity as colour.
const RAMP = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];
const rampOf = (share) => {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  const mixed = RAMP[low].map((value, channel) => Math.round(value + (place - low) * (RAMP[low + 1][channel] - value)));
  return `rgb(${mixed.join(" ")})`;
};

const mapGeometry = (canvas) => {
  const [width, height, margin] = [canvas.clientWidth || 600, canvas.clientHeight || 300, 30];
  const lowest = Math.log10(1 / sampleCount);
  let highest = lowest + 1;
  for (const frequency of columns.frequency) if (frequency > 0) highest = Math.max(highest, Math.log10(frequency));
  const place = (feature) => [
    margin + (Math.log10(columns.frequency[feature]) - lowest) / (highest - lowest) * (width - margin - 12),
    height - margin - (columns.dimension[feature] - 1) / Math.max(n - 1, 0.1) * (height - margin - 30),
  ];
  return { width, height, margin, lowest, highest, place };
};

const drawMap = (canvas, current) => {
  const { width, height, margin, lowest, highest, place } = mapGeometry(canvas);
  const pen = penOf(canvas, width, height);
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--line");
  pen.font = "11px system-ui, sans-serif";
  for (let value = 1; value <= n; value += Math.max(1, Math.round(n / 8))) {
    const y = height - margin - (value - 1) / Math.max(n - 1, 0.1) * (height - margin - 30);
    pen.fillText(`${value}`, 4, y + 4);
    pen.beginPath();
    pen.moveTo(margin - 8, y);
    pen.lineTo(width, y);
    pen.stroke();
  }
  for (let power = Math.ceil(lowest); power <= highest; power += 1) {
    const x = margin + (power - lowest) / (highest - lowest) * (width - margin - 12);
    pen.fillText(percent(10 ** power), Math.min(x - 10, width - 40), height - 6);
  }
  pen.fillText("effective dimension", 4, 12);
  pen.textAlign = "right";
  pen.fillText("of the samples", width - 4, height - 18);
  pen.strokeStyle = colour("--soft");
  pen.lineWidth = 0.6;
  for (let feature = 0; feature < m; feature += 1) {
    if (columns.frequency[feature] > 0) {
      pen.fillStyle = rampOf(columns.circularity[feature]);
      dot(pen, ...place(feature), 3.4);
      pen.stroke();
    }
  }
  if (current !== null && columns.frequency[current] > 0) {
    pen.strokeStyle = colour("--accent");
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.arc(...place(current), 8, 0, 2 * Math.PI);
    pen.stroke();
  }
};
