"use strict";
// A table is a stop of the Tab key only while it is wider than its frame.
(() => {
  const frames = [...document.querySelectorAll(".scroll")];
  const look = () => frames.forEach((frame) => (frame.tabIndex = frame.scrollWidth > frame.clientWidth ? 0 : -1));
  addEventListener("resize", look);
  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", look));
  look();
})();
// The page's pairs: filters, bars and cards, from the embedded JSON. Every text is inserted as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 20;
  const get = (id) => document.getElementById(id);
  if (!data.groups.length) return;

  const make = (tag, props, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children.filter((child) => child !== null));
    return node;
  };
  const number = (value) => value.toLocaleString("en");
  const plural = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;
  const unique = (values) => [...new Set(values)];
  const controls = ["run", "seed", "round", "kind", "outcome", "search"];
  const value = (name) => get(name).value;
  let page = 0;

  for (const card of data.cards) {
    const texts = [card.item, card.prompt, card.reason, ...card.steps.map((step) => step[1]), ...card.tree.map((node) => node[1])];
    for (const side of [card.chosen, card.rejected]) texts.push((side || []).map((piece) => piece[0]).join(""));
    card.text = texts.filter(Boolean).join("\n").toLowerCase();
    card.outcome = card.reason === null ? "kept" : `dropped:${card.reason}`;
  }

  // A select keeps its choice while that is offered. A select with one option is hidden.
  const fill = (name, options) => {
    const select = get(name);
    const before = select.options.length ? select.value : null;
    select.replaceChildren(...options.map(([key, label]) => new Option(label, key)));
    select.value = options.some(([key]) => key === before) ? before : options[0][0];
    select.parentElement.hidden = options.length < 3 && (options.length < 2 || options[0][0] === "");
  };
  const all = (label, values) => [["", label], ...values.map((each) => [String(each), String(each)])];

  const inRun = (group) => !value("run") || group.run === value("run");
  const selected = (group) =>
    inRun(group) &&
    (!value("seed") || String(group.seed) === value("seed")) &&
    (!value("round") || String(group.round) === value("round"));

  const refill = () => {
    const mine = data.groups.filter(inRun);
    fill("seed", all("all seeds", unique(mine.map((group) => group.seed))));
    fill("round", all("all rounds", unique(mine.map((group) => group.round))));
    fill("kind", all("all kinds", unique(data.cards.filter((card) => inRun(data.groups[card.group])).map((card) => card.kind))));
    const reasons = unique(mine.flatMap((group) => group.reasons.map((reason) => reason[0])));
    const outcomes = [["", "kept and dropped"], ["kept", "pairs kept"], ["dropped", "dropped, all reasons"]];
    fill("outcome", [...outcomes, ...reasons.map((reason) => [`dropped:${reason}`, `dropped: ${reason}`])]);
  };

  const matches = (card) => {
    const words = value("search").toLowerCase().split(/\s+/);
    const outcome = value("outcome");
    return (
      selected(data.groups[card.group]) &&
      (!value("kind") || card.kind === value("kind")) &&
      (!outcome || card.outcome === outcome || (outcome === "dropped" && card.reason !== null)) &&
      words.every((word) => card.text.includes(word))
    );
  };

  const bars = (groups) => {
    const sums = new Map([["kept", 0]]);
    for (const group of groups) {
      sums.set("kept", sums.get("kept") + group.pairs);
      for (const [reason, count] of group.reasons) sums.set(`dropped:${reason}`, (sums.get(`dropped:${reason}`) || 0) + count);
    }
    const total = [...sums.values()].reduce((sum, count) => sum + count, 0);
    const sorted = [...sums].sort((a, b) => (b[0] === "kept") - (a[0] === "kept") || b[1] - a[1]);
    return sorted.map(([outcome, count]) => {
      const share = total ? (100 * count) / total : 0;
      const fillbar = make("span", {});
      fillbar.style.width = `${share}%`;
      const button = make(
        "button",
        { type: "button", className: outcome === "kept" ? "bar kept" : "bar" },
        make("span", { textContent: outcome === "kept" ? "became a pair" : outcome.slice("dropped:".length) }),
        make("span", { className: "track" }, fillbar),
        make("span", { className: "number", textContent: `${number(count)} (${share.toFixed(1)} %)` }),
      );
      button.dataset.outcome = outcome;
      button.setAttribute("aria-pressed", String(value("outcome") === outcome));
      button.addEventListener("click", () => {
        get("outcome").value = value("outcome") === outcome ? "" : outcome;
        update();
        [...get("funnel").children].find((other) => other.dataset.outcome === outcome)?.focus({ preventScroll: true });
      });
      return button;
    });
  };

  const loaded = (index, alt) => {
    const node = make("img", { alt, src: data.images[index] });
    node.addEventListener("load", () => node.classList.toggle("pixels", node.naturalWidth < 150));
    return node;
  };
  const enlarge = (card) => {
    const both = [[card.image, "the image"], [card.corrupted, `the corrupted image of the rejected answer: ${card.corruption}`]];
    const shown = both.filter(([index]) => index !== null);
    const figures = shown.map(([index, name]) => make("figure", {}, loaded(index, name), make("figcaption", { textContent: name })));
    const close = make("button", { type: "button", textContent: "Close" });
    close.addEventListener("click", () => get("large").close());
    get("large").replaceChildren(make("div", { className: "both" }, ...figures), close);
    get("large").showModal();
  };
  const image = (card, index, alt) => {
    if (index === null) return make("div", { className: "none", textContent: "image not available" });
    const button = make("button", { type: "button", className: "image", title: "Enlarge" }, loaded(index, alt));
    button.addEventListener("click", () => enlarge(card));
    return button;
  };
  const answer = (side, pieces, note) =>
    make(
      "p",
      { className: `answer ${side}` },
      make("b", {}, side, note ? make("small", { textContent: `, ${note}` }) : null),
      ...pieces.map(([text, differs]) => (differs ? make("mark", { className: side, textContent: text }) : text)),
    );
  const trace = (card) => {
    const list = make("dl", { className: "steps" });
    for (const [name, text, note] of card.steps) {
      const entry = make("dd", {}, text || "(nothing)", note ? make("br", {}) : null, note ? make("small", { textContent: note }) : null);
      list.append(make("dt", { textContent: name }), entry);
    }
    const settings = make("p", { className: "settings", textContent: card.settings.join(" · ") });
    const grown = card.tree.length ? tree(card.tree) : null;
    return make("details", { open: !card.chosen }, make("summary", { textContent: "How it was made" }), grown, list, settings);
  };
  // A search tree, depth first. The paths to the pair's two answers are marked, in words too.
  const tree = (nodes) => {
    const list = make("ol", { className: "tree", ariaLabel: "The search tree: sentences with both rewards" });
    for (const [depth, text, note, path] of nodes) {
      const tag = path ? make("b", { textContent: path === "both" ? "both paths" : `to ${path}` }) : null;
      const node = make("li", { className: path }, tag, make("span", { textContent: text }), make("small", { textContent: note }));
      node.style.marginLeft = `${(depth - 1) * 1.1}rem`;
      list.append(node);
    }
    const only = nodes.some((node) => node[3]) ? make("button", { type: "button", className: "link", textContent: "Show the two paths only" }) : null;
    only?.addEventListener("click", () => {
      const few = list.classList.toggle("few");
      only.textContent = few ? "Show the whole tree" : "Show the two paths only";
    });
    return make("div", {}, only, list);
  };
  const draw = (card) => {
    const group = data.groups[card.group];
    const item = make("button", { type: "button", className: "link", textContent: card.item, title: "Every prompt about this image" });
    item.addEventListener("click", () => {
      for (const name of controls) get(name).value = "";
      get("search").value = card.item;
      refill();
      update();
      get("count").focus();
    });
    const [look, outcome] = card.reason === null ? ["badge", "kept"] : ["badge dropped", `dropped: ${card.reason}`];
    const badge = make("span", { className: look, textContent: outcome });
    const where = make("span", { className: "where", textContent: `${group.run}, seed ${group.seed}, round ${group.round}` });
    const top = make("div", { className: "top" }, make("h3", { textContent: card.kind }), badge, item, where);
    const body = make("div", { className: "body" });
    const prompt = card.prompt === null ? null : make("p", { className: "prompt", textContent: card.prompt });
    body.append(image(card, card.image, `image ${card.item}`));
    if (card.chosen) {
      const corrupted = card.corrupted === null ? make("div", {}) : image(card, card.corrupted, `image ${card.item}, corrupted`);
      const note = card.corruption ? `given on the corrupted image (${card.corruption})` : "";
      body.append(answer("chosen", card.chosen, ""), corrupted, answer("rejected", card.rejected, note));
    }
    if (card.steps.length || card.settings.length || card.tree.length) body.append(trace(card));
    return make("article", { className: "card" }, top, prompt, body);
  };

  // Why nothing is shown: the filters that are on, and buttons that take them back.
  const explain = (count) => {
    get("empty").hidden = count > 0;
    if (count) return;
    const set = controls.filter((name) => value(name) && !get(name).parentElement.hidden);
    const named = set.map((name) => (name === "search" ? `the words “${value(name).trim()}”` : get(name).selectedOptions[0].textContent));
    const buttons = set.filter((name) => name !== "run" || get("run").options[get("run").options.length - 1].value === "").map((name) => {
      const node = make("button", { type: "button", textContent: name === "search" ? "Remove the words" : `Any ${name}` });
      node.addEventListener("click", () => {
        get(name).value = "";
        if (name === "run") refill();
        update();
        get(name).focus();
      });
      return node;
    });
    get("empty").replaceChildren(
      `No pair and no dropped prompt in this page has all of: ${named.join(", ") || "no filter"}. The page holds a sample; the bars above count all. `,
      make("br", {}), ...buttons);
  };

  const update = (turned = false) => {
    const found = data.cards.filter(matches);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = turned ? Math.min(Math.max(page, 0), pages - 1) : 0;
    const groups = data.groups.filter(selected);
    const sum = (name) => groups.reduce((total, group) => total + group[name], 0);
    const first = page * PAGE;
    const shown = found.slice(first, first + PAGE);
    get("funnel").replaceChildren(...bars(groups));
    const range = `${number(first + 1)} to ${number(first + shown.length)} of ${plural(found.length, "match", "matches")}`;
    const kept = `${number(sum("shown_pairs"))} of ${plural(sum("pairs"), "pair")}`;
    const dropped = `${number(sum("shown_drops"))} of ${plural(sum("dropped"), "dropped prompt")}`;
    const text = shown.length ? range : "Nothing matches these filters";
    explain(found.length);
    get("count").textContent = `${text}. In this page: ${kept} and ${dropped}.`;
    get("cards").replaceChildren(...shown.map(draw));
    get("pager").hidden = pages < 2;
    get("previous").disabled = page === 0;
    get("next").disabled = page === pages - 1;
    get("place").textContent = `Page ${number(page + 1)} of ${number(pages)}`;
  };
  const turn = (by) => {
    page += by;
    update(true);
    get("count").focus({ preventScroll: true });
    get("count").scrollIntoView();
  };

  const runs = unique(data.groups.map((group) => group.run));
  fill("run", runs.length > 1 ? [...runs.map((run) => [run, run]), ["", "all runs"]] : [["", "all runs"]]);
  for (const name of controls) get(name).addEventListener("input", () => (name === "run" && refill(), update()));
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  get("clear").addEventListener("click", () => {
    for (const name of controls.slice(1)) get(name).value = "";
    update();
  });
  get("previous").addEventListener("click", () => turn(-1));
  get("next").addEventListener("click", () => turn(1));
  refill();
  update();
})();
