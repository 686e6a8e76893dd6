// The list of features: search, order, keys, and which one is shown.
const HEIGHT = 56;
const ORDERS = [
  ["frequency", "frequency", (feature) => columns.frequency[feature], (value) => percent(value)],
  ["strength", "strength", (feature) => columns.strength[feature], number],
  ["dimension", "effective dimension", (feature) => columns.dimension[feature], (value) => value.toFixed(2)],
  ["utilisation", "utilisation", (feature) => columns.dimension[feature] / n, percent],
  ["circularity", "circularity", (feature) => columns.circularity[feature], (value) => value.toFixed(2)],
  ["share", "power in the plane", (feature) => columns.share[feature], percent],
  ["number", "number", (feature) => -feature, () => ""],
];
const [list, rows, search, sort] = ["list", "rows", "search", "sort"].map(byId);
const state = { order: ORDERS[0], descending: true, listed: [], feature: null };
const drawn = new Map();
const narrow = window.matchMedia("(max-width: 760px)");

const matches = (feature, query, asNumber) =>
  (asNumber !== null && `${feature}`.startsWith(asNumber)) || wordsOf(feature).some((word) => word.toLowerCase().includes(query));

const filtered = () => {
  const query = search.value.trim().toLowerCase();
  const asNumber = /^#?\d+$/.test(query) ? query.replace("#", "") : null;
  const result = [];
  for (let feature = 0; feature < m; feature += 1) {
    const alive = columns.frequency[feature] > 0 || byId("dead").checked || `${feature}` === asNumber;
    if (alive && (!query || matches(feature, query, asNumber))) result.push(feature);
  }
  const key = state.order[2];
  const sign = state.descending ? -1 : 1;
  result.sort((one, other) => sign * (key(one) - key(other)) || one - other);
  // The feature of exactly this number comes first.
  if (asNumber !== null && result.includes(Number(asNumber))) {
    result.splice(result.indexOf(Number(asNumber)), 1);
    result.unshift(Number(asNumber));
  }
  return result;
};

const rowOf = (place) => {
  const feature = state.listed[place];
  const row = element("div", {
    role: "option", id: `option-${feature}`, "data-feature": feature, "aria-posinset": place + 1, "aria-setsize": state.listed.length,
    "aria-selected": feature === state.feature,
  });
  row.style.top = `${place * HEIGHT}px`;
  const canvas = element("canvas", { "aria-hidden": "true" });
  const [, , key, format] = state.order;
  const text = element("span", {}, element("b", {}, `#${feature}`));
  text.append(element("small", { dir: "auto" }, wordsOf(feature).join(" · ") || "dead"));
  row.append(canvas, text, element("em", {}, format(key(feature))));
  drawSmallPlane(canvas, feature);
  return row;
};

const drawRows = () => {
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4);
  const last = Math.min(state.listed.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 4);
  for (const [place, row] of drawn) {
    if (place < first || place >= last) {
      row.remove();
      drawn.delete(place);
    }
  }
  for (let place = first; place < last; place += 1) {
    if (!drawn.has(place)) {
      drawn.set(place, rowOf(place));
      rows.append(drawn.get(place));
    }
  }
  if (drawn.has(state.listed.indexOf(state.feature))) list.setAttribute("aria-activedescendant", `option-${state.feature}`);
  else list.removeAttribute("aria-activedescendant");
};

const clearRows = () => {
  drawn.clear();
  rows.replaceChildren();
};

const drawList = () => {
  state.listed = filtered();
  clearRows();
  rows.style.height = `${state.listed.length * HEIGHT}px`;
  byId("count").textContent = `${state.listed.length} of ${m} features`;
  list.scrollTop = 0;
  drawRows();
};

const reveal = () => {
  const place = state.listed.indexOf(state.feature);
  if (place < 0) return;
  const top = place * HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  drawRows();
};

const select = (feature) => {
  if (!Number.isInteger(feature) || feature < 0 || feature >= m) return;
  state.feature = feature;
  for (const row of drawn.values()) row.setAttribute("aria-selected", Number(row.dataset.feature) === feature);
  showFeature(feature);
  reveal();
  drawMap(byId("map"), feature);
  history.replaceState(null, "", `#feature-${feature}`);
};

const move = (by) => {
  if (!state.listed.length) return;
  const place = state.listed.indexOf(state.feature);
  const next = place < 0 ? 0 : Math.min(Math.max(place + by, 0), state.listed.length - 1);
  select(state.listed[next]);
};

const openDetails = () => {
  byId("name").focus({ preventScroll: true });
  byId("feature").scrollIntoView({ block: narrow.matches ? "start" : "nearest" });
};

const toList = () => {
  list.focus({ preventScroll: true });
  if (narrow.matches) byId("explorer").scrollIntoView({ block: "start" });
};

const searchKey = (event) => {
  if (event.key === "Escape") {
    if (search.value) {
      search.value = "";
      drawList();
    } else toList();
  } else if (event.key === "Enter" || event.key === "ArrowDown") {
    if (!state.listed.includes(state.feature) || event.key === "Enter") move(-m);
    toList();
  } else return;
  event.preventDefault();
};

const keys = (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target === search) {
    searchKey(event);
    return;
  }
  const [inList, inPlane] = [event.target === list, event.target === byId("plane")];
  const inField = event.target.matches("select, input");
  const actions = { "/": () => search.focus(), Escape: toList };
  if (!inField) Object.assign(actions, { j: () => move(1), k: () => move(-1) });
  if (inList || inPlane) Object.assign(actions, { ArrowDown: () => move(1), ArrowUp: () => move(-1) });
  if (inList) {
    Object.assign(actions, {
      Home: () => move(-m), End: () => move(m), PageDown: () => move(10), PageUp: () => move(-10), Enter: openDetails,
    });
  }
  if (!inField) Object.assign(actions, { ArrowLeft: () => walk(-1), ArrowRight: () => walk(1) });
  const action = actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
};

const draw = () => {
  clearRows();
  drawRows();
  if (state.feature !== null) {
    drawPlane(byId("plane"), state.feature, shown.points, shown.current);
    drawMap(byId("map"), state.feature);
  }
};

const fromAddress = () => {
  const found = /^#feature-(\d+)$/.exec(location.hash);
  return found && Number(found[1]) < m ? Number(found[1]) : null;
};

for (const [name, text] of ORDERS) sort.append(element("option", { value: name }, text));
const timer = { number: 0 };
search.addEventListener("input", drawList);
byId("dead").addEventListener("change", drawList);
sort.addEventListener("change", () => {
  state.order = ORDERS.find(([name]) => name === sort.value);
  drawList();
});
byId("direction").addEventListener("click", () => {
  state.descending = !state.descending;
  const text = state.descending ? "largest first" : "smallest first";
  for (const name of ["aria-label", "title"]) byId("direction").setAttribute(name, text);
  byId("direction").textContent = state.descending ? "↓" : "↑";
  drawList();
});
list.addEventListener("scroll", () => {
  if (!timer.number) {
    timer.number = requestAnimationFrame(() => {
      timer.number = 0;
      drawRows();
    });
  }
});
rows.addEventListener("click", (event) => {
  const row = event.target.closest("[role=option]");
  if (!row) return;
  select(Number(row.dataset.feature));
  if (narrow.matches) openDetails();
});
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
byId("back").addEventListener("click", toList);
byId("map").addEventListener("click", (event) => {
  const { place } = mapGeometry(byId("map"));
  const box = byId("map").getBoundingClientRect();
  let [best, least] = [null, 20 ** 2];
  for (let feature = 0; feature < m; feature += 1) {
    if (columns.frequency[feature] > 0) {
      const [x, y] = place(feature);
      const distance = (event.clientX - box.left - x) ** 2 + (event.clientY - box.top - y) ** 2;
      if (distance < least) [best, least] = [feature, distance];
    }
  }
  if (best !== null) {
    select(best);
    openDetails();
  }
});
document.addEventListener("keydown", keys);
window.addEventListener("hashchange", () => select(fromAddress() ?? state.feature));
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

const { step: steps = [], ...curves } = data.curves;
if (steps.length && Object.keys(curves).length) {
  byId("training").hidden = false;
  for (const [name, values] of Object.entries(curves)) byId("curves").append(drawCurve(name.replace("_", " "), steps, values));
}
byId("explorer").hidden = false;
drawList();
select(fromAddress() ?? state.listed[0] ?? 0);
