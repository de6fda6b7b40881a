"use strict";
// The page's questions: filters and cards, and a link from each cell of the tables. Every text is inserted as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = data.questions;
  if (!all.length) return;
  const PAGE = 12;
  const get = (id) => document.getElementById(id);
  const make = (tag, props, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children.filter((child) => child !== null));
    return node;
  };
  const number = (value) => value.toLocaleString("en");
  const value = (name) => get(name).value;
  const fill = (name, labels, chosen) => {
    get(name).replaceChildren(...labels.map((label, index) => new Option(label, String(index))));
    get(name).value = String(Math.min(Math.max(chosen, 0), labels.length - 1));
  };
  const words = (metric) => (metric.directed ? ["better", "worse"] : ["higher", "lower"]);
  let page = 0;

  const chosen = () => {
    const benchmark = all[Number(value("q-benchmark"))];
    return { benchmark, metric: Number(value("q-metric")), row: benchmark.rows[Number(value("q-row"))] };
  };
  // The choice is part of the address, so that a cell can be a link and the browser's back button works.
  const address = () => `#q/${["q-benchmark", "q-metric", "q-row", "q-change"].map(value).join("/")}`;

  const refill = (metric, row, change) => {
    const benchmark = all[Number(value("q-benchmark"))];
    fill("q-metric", benchmark.metrics.map((one) => one.heading + (one.primary ? " (primary)" : "")), metric);
    fill("q-row", benchmark.rows.map((one) => one.label), row);
    const [up, down] = words(benchmark.metrics[Number(value("q-metric"))]);
    const options = [["wl", `${up} or ${down}`], ["w", up], ["l", down], ["s", "equal"], ["?", "unscored in one"], ["", "all"]];
    get("q-change").replaceChildren(...options.map(([key, label]) => new Option(label, key)));
    get("q-change").value = change;
  };

  const answer = (label, [pieces, reading, why], side) => {
    const text = pieces === null ? [make("i", { textContent: "the answer is not stored in this folder" })]
      : typeof pieces === "string" ? [pieces.trim() || "(nothing)"]
      : pieces.map(([part, wrong]) => (wrong ? make("mark", { className: "rejected", textContent: part, title: "not there" }) : part));
    const read = [reading && `read as: ${reading}`, why].filter(Boolean).join(" · ");
    return make("p", { className: `answer ${side}` }, make("b", { textContent: label }), ...text, read ? make("small", { className: "read", textContent: read }) : null);
  };
  const draw = (index) => {
    const { benchmark, metric, row } = chosen();
    const [id, text, image, truth] = benchmark.questions[index];
    const [up, down] = words(benchmark.metrics[metric]);
    const verdict = { w: up, l: down, s: "equal", "?": "unscored in one", "-": "not counted by this metric" }[row.codes[index][metric]];
    const look = { w: "verdict good", l: "verdict bad" }[row.codes[index][metric]] || "verdict";
    const shot = image === null ? make("div", { className: "none", textContent: "image not available" })
      : make("img", { src: data.images[image], alt: `image of question ${id}`, className: "pixels" });
    const others = make("dl", { className: "steps" });
    for (const other of benchmark.rows) {
      if (other === row) continue;
      const [pieces, reading] = other.answers[index];
      const words = pieces === null ? reading : typeof pieces === "string" ? pieces : pieces.map((piece) => piece[0]).join("");
      others.append(make("dt", { textContent: other.label }), make("dd", { textContent: words.trim() || "(nothing)" }));
    }
    return make("article", { className: "asked" },
      make("div", { className: "top" }, make("h3", { textContent: id }), make("span", { className: look, textContent: verdict })),
      text ? make("p", { className: "prompt", textContent: text }) : null,
      make("div", { className: "both" }, shot, make("div", {},
        answer(benchmark.baseline, benchmark.base[index], "base"), answer(row.label, row.answers[index], "mine"),
        truth ? make("p", { className: "truth" }, make("b", { textContent: "truth: " }), truth) : null,
        benchmark.rows.length > 1 ? make("details", {}, make("summary", { textContent: "Answers of the other rows" }), others) : null)));
  };

  // Why nothing is shown, and a button for each filter that can be taken back.
  const explain = (count, change, [up, down]) => {
    const { benchmark, metric, row } = chosen();
    get("q-empty").hidden = count > 0;
    if (count) return;
    const looked = get("q-find").value.trim();
    const kind = { wl: `${up} or ${down}`, w: up, l: down, s: "equal", "?": "unscored in one" }[change];
    const parts = [kind && `where ${row.label} is ${kind} in ${benchmark.metrics[metric].heading}`, looked && `with the words “${looked}”`];
    const sampled = benchmark.images[0] < benchmark.images[1] ? " This page holds a sample of the images; the counts above are of all." : "";
    const button = (name, text, empty) => {
      const node = make("button", { type: "button", textContent: text });
      node.addEventListener("click", () => {
        get(name).value = empty;
        get(name).dispatchEvent(new Event("input"));
        get(name).focus();
      });
      return node;
    };
    get("q-empty").replaceChildren(
      `No question ${parts.filter(Boolean).join(" and ") || "is here"}.${sampled} `, make("br", {}),
      ...[looked && button("q-find", "Remove the words", ""), kind && button("q-change", "Show all changes", "")].filter(Boolean));
  };

  const update = (turned = false) => {
    const { benchmark, metric, row } = chosen();
    const change = value("q-change");
    const find = value("q-find").toLowerCase().split(/\s+/);
    const plain = (pieces) => (pieces === null ? "" : typeof pieces === "string" ? pieces : pieces.map((piece) => piece[0]).join(""));
    const found = [];
    benchmark.questions.forEach(([id, text, , truth], index) => {
      const code = row.codes[index][metric];
      if (change && !change.includes(code)) return;
      const all = [id, text, truth, plain(benchmark.base[index][0]), plain(row.answers[index][0])].join("\n").toLowerCase();
      if (find.every((word) => all.includes(word))) found.push(index);
    });
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = turned ? Math.min(Math.max(page, 0), pages - 1) : 0;
    const [up, down] = words(benchmark.metrics[metric]);
    const [wins, losses, same, unscored] = row.counts[metric];
    const seeds = row.seeds > 1 ? ` (training seed ${row.seed}, one of ${row.seeds})` : "";
    get("q-sum").textContent =
      `${row.label}${seeds} against ${benchmark.baseline} on all ${number(benchmark.total)} questions: ${number(wins)} ${up}, ` +
      `${number(losses)} ${down}, ${number(same)} equal` + (unscored ? `, ${number(unscored)} unscored in one.` : ".");
    const [some, every] = benchmark.images;
    const kept = some < every ? `This page shows the ${number(benchmark.questions.length)} questions of ${number(some)} of ${number(every)} images, a random sample` : "This page shows all of them";
    get("q-count").textContent = `${kept}; ${number(found.length)} ${found.length === 1 ? "matches" : "match"} these filters.`;
    const reached = row.reached[metric] || [];
    get("q-reached").hidden = !reached.length;
    get("q-reached").textContent = `† ${row.label} does not exceed ${reached.join(", ")}: the gain is not the method's own.`;
    explain(found.length, change, words(benchmark.metrics[metric]));
    get("q-cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(draw));
    get("q-pager").hidden = pages < 2;
    get("q-earlier").disabled = page === 0;
    get("q-later").disabled = page === pages - 1;
    get("q-place").textContent = `${number(page + 1)} of ${number(pages)}`;
  };
  const turn = (by) => {
    page += by;
    update(true);
    get("q-sum").focus({ preventScroll: true });
    get("q-sum").scrollIntoView();
  };
  const go = () => {
    const parts = location.hash.startsWith("#q/") ? location.hash.slice(3).split("/") : null;
    if (!parts || !all[Number(parts[0])]) return false;
    get("q-benchmark").value = parts[0];
    refill(Number(parts[1]) || 0, Number(parts[2]) || 0, ["wl", "w", "l", "s", "%3F", "?", ""].includes(parts[3]) ? parts[3].replace("%3F", "?") : "wl");
    get("q-find").value = "";
    update();
    return true;
  };

  // Each measured cell of a benchmark's tables links to its questions. Tab stops once a table; the arrow keys move on.
  const before = new Map();
  document.querySelectorAll("section.block[data-benchmark]").forEach((block) => {
    const place = all.findIndex((one) => one.name === block.dataset.benchmark);
    const first = before.get(place) || 0; // A wide block is several tables, whose columns count on.
    before.set(place, first + block.querySelectorAll("thead th").length - 1);
    if (place < 0) return;
    const links = [];
    for (const line of block.querySelectorAll("tbody tr")) {
      const label = line.querySelector("th[scope=row]")?.textContent;
      const row = all[place].rows.findIndex((one) => one.label === label);
      if (row < 0) continue;
      links.push([...line.querySelectorAll("td")].slice(0, Math.max(0, all[place].metrics.length - first)).map((cell, column) => {
        const link = make("a", { href: `#q/${place}/${first + column}/${row}/wl`, className: "cell", title: "The questions with another outcome" });
        const text = cell.firstChild;
        text.textContent = text.textContent.trim();
        link.append(text);
        cell.prepend(link);
        return link;
      }));
    }
    const rest = (link) => links.flat().forEach((one) => (one.tabIndex = one === link ? 0 : -1));
    rest(links[0]?.[0]);
    block.addEventListener("focusin", (event) => event.target.classList.contains("cell") && rest(event.target));
    block.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] || [0, 0];
      const line = links.findIndex((each) => each.includes(event.target));
      if (line < 0 || (!down && !right)) return;
      const next = links[line + down]?.[links[line].indexOf(event.target) + right];
      event.preventDefault();
      next?.focus();
    });
  });
  get("keys").hidden = !before.size;

  fill("q-benchmark", all.map((one) => one.name), 0);
  refill(Math.max(0, all[0].metrics.findIndex((one) => one.primary)), 0, "wl");
  for (const name of ["q-benchmark", "q-metric", "q-row", "q-change", "q-find"]) {
    get(name).addEventListener("input", () => {
      if (name === "q-benchmark") refill(Math.max(0, all[Number(value(name))].metrics.findIndex((one) => one.primary)), 0, "wl");
      if (name === "q-metric") refill(Number(value("q-metric")), Number(value("q-row")), value("q-change"));
      if (name !== "q-find") history.replaceState(null, "", address());
      update();
    });
  }
  get("q-form").addEventListener("submit", (event) => event.preventDefault());
  get("q-earlier").addEventListener("click", () => turn(-1));
  get("q-later").addEventListener("click", () => turn(1));
  const arrive = () => {
    if (go()) {
      get("q-sum").focus({ preventScroll: true });
      get("questions").scrollIntoView();
    }
  };
  addEventListener("hashchange", arrive);
  update();
  arrive();
})();
