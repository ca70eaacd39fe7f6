// What the page does: asks this service and shows what it answers. Texts go in as text, never as markup.
import { draw } from "/assets/chart.js";
import { BadFile, part, readPrices } from "/assets/prices.js";
import { paintWords, priorityWord, stateWord, switchLanguage, word } from "/assets/words.js";

const EVERY_MS = 3000;
const at = (id) => document.getElementById(id);
let prices = new Map();
let lookback = 512;
let on = { jobs: false, kept: false }; // what the service was started with
let last = null; // what the chart shows

// -- asking ------------------------------------------------------------------------------------------
class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function keyHeaders() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(path, body) {
  const headers = keyHeaders();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const tree = await answer.json();
  at("keyform").hidden = answer.status !== 401;
  if (!answer.ok && !path.startsWith("/health")) throw new Problem(answer.status, tree.detail);
  return tree;
}

// -- building ----------------------------------------------------------------------------------------
function made(tag, content, kind) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  for (const part of [content].flat()) element.append(part ?? "");
  return element;
}

function table(names, rows) {
  if (!rows.length) return made("p", word("none"), "soft");
  const head = made("tr", names.map((name) => made("th", word(name))));
  const body = rows.map((cells) => made("tr", cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : made("td", cell)))));
  return made("div", made("table", [made("thead", head), made("tbody", body)]), "table");
}

function button(name, act) {
  const one = made("button", word(name));
  one.type = "button";
  one.addEventListener("click", act);
  return one;
}

const number = (x) => (x === null || x === undefined ? "–" : Number(x.toPrecision(6)).toLocaleString(document.documentElement.lang));
const share = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);
const range = (x) => (x.low === null || x.low === undefined ? share(x.value) : `${share(x.value)} (${share(x.low)} – ${share(x.high)})`);
const lasting = (s) => (s < 120 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
const when = (text) => text.replace("T", " ").replace("Z", "").slice(0, 16);

// -- the forecast ------------------------------------------------------------------------------------
function show(caption, history, prediction, actual, model, level, tookMs) {
  last = [caption, history, prediction, actual, model, level, tookMs];
  at("result").hidden = false;
  at("caption").textContent = caption;
  const interval = prediction.confidence_intervals.close;
  const figures = [[word("lastClose"), number(prediction.last_close)], [word("medianEnd"), number(prediction.median.close.at(-1))]];
  if (interval) figures.push([`${word("within")} (${share(level)})`, `${number(interval.lower.at(-1))} – ${number(interval.upper.at(-1))}`]);
  figures.push([`${word("probUp")} (${word(prediction.prob_up_calibrated ? "calibrated" : "raw")})`, share(prediction.prob_up)]);
  if (prediction.measured_coverage) figures.push([word("measured"), share(prediction.measured_coverage.value)]);
  if (prediction.used_bars) figures.push([word("usedBars"), prediction.used_bars]);
  figures.push([word("version"), model]);
  if (tookMs !== null) figures.push([word("took"), `${Math.round(tookMs)} ms`]);
  at("figures").replaceChildren(...figures.map(([name, value]) => made("div", [made("dt", name), made("dd", String(value))])));
  at("warnings").replaceChildren(...(prediction.warnings ?? []).map((line) => made("li", line)));
  at("chart").setAttribute("aria-label", caption);
  draw(at("chart"), history, prediction, actual);
}

async function forecast(event) {
  event.preventDefault();
  const name = at("series").value;
  const columns = prices.get(name);
  const steps = Number(at("horizon").value);
  const level = Number(at("level").value);
  const held = at("holdback").checked ? steps : 0;
  const end = columns.timestamps.length - held;
  at("problem").textContent = "";
  if (end < 2) {
    at("problem").textContent = word("tooShort");
    return;
  }
  const sent = { series_id: name, ...part(columns, end, Math.min(lookback, 2048)) };
  const actual = held ? part(columns, columns.timestamps.length, held) : null;
  if (held) sent.future_timestamps = actual.timestamps;
  at("go").disabled = true;
  at("go").textContent = word("working");
  try {
    const answer = await ask("/v1/predict", { stock_data: [sent], prediction_horizon: steps, confidence_level: level });
    const model = `${answer.model.name} ${answer.model.version}`;
    show(name, part(columns, end, 400), answer.predictions[0], actual, model, level, answer.timing.compute_ms);
    await paintHistory();
  } catch (error) {
    tell(error);
  } finally {
    at("go").disabled = false;
    at("go").textContent = word("go");
  }
}

function tell(error) {
  if (!(error instanceof Problem || error instanceof TypeError)) throw error;
  at("problem").textContent = error instanceof Problem ? error.message : word("unreachable");
}

async function readFile() {
  const file = at("file").files[0];
  at("problem").textContent = "";
  prices = new Map();
  if (file) {
    try {
      prices = readPrices(await file.text(), file.name.replace(/\.csv$/i, ""));
    } catch (error) {
      if (!(error instanceof BadFile)) throw error;
      at("problem").textContent = word(error.message, error.row);
    }
  }
  at("series").replaceChildren(...[...prices.keys()].sort().map((name) => new Option(name)));
  at("series").disabled = at("go").disabled = !prices.size;
}

// -- what is kept ------------------------------------------------------------------------------------
async function section(id, switched, path, paint) {
  if (!switched) {
    at(id).replaceChildren(made("p", word("off"), "soft"));
    return;
  }
  try {
    at(id).replaceChildren(paint(await ask(path)));
  } catch (error) {
    if (error instanceof TypeError) return; // no answer: the line at the top says so
    if (!(error instanceof Problem)) throw error;
    at(id).replaceChildren(made("p", error.message, "soft"));
  }
}

function paintHistory() {
  return section("history", on.kept, "/v1/forecasts", ({ forecasts }) =>
    table(["series", "show", "from", "horizon", "level", "version", "when"], forecasts.slice(0, 50).map((one) => [
      one.series_id, button("show", () => showKept(one.id, one.series_id)), when(one.last_date), String(one.horizon),
      share(one.confidence_level), one.version, when(one.created),
    ])));
}

async function showKept(id, name) {
  try {
    const kept = await ask(`/v1/forecasts/${encodeURIComponent(id)}`);
    const one = kept.series.find((series) => series.series_id === name) ?? kept.series[0];
    show(one.series_id, one.history, one.prediction, one.actual, kept.version, kept.confidence_level, null);
    at("result").scrollIntoView({ block: "nearest" });
  } catch (error) {
    tell(error);
  }
}

function paintJobs() {
  return section("jobs", on.jobs, "/v1/jobs", ({ jobs }) =>
    table(["state", "progress", "act", "priority", "when", "tries", "id"], jobs.slice(0, 50).map((job) => {
      const bar = document.createElement("progress");
      bar.max = job.series;
      bar.value = job.done + job.failed;
      const open = job.state === "queued" || job.state === "running";
      const eta = open && job.eta_s ? `, ${word("left", lasting(job.eta_s))}` : "";
      const failed = job.failed ? `, ${word("failed", job.failed)}` : "";
      const acts = { done: ["result", save], failed: ["resume", change], cancelled: ["resume", change] };
      const [name, act] = acts[job.state] ?? ["cancel", change];
      const state = made("td", stateWord(job.state));
      if (job.reason) state.append(made("div", job.reason, "long fail"));
      return [
        state, made("td", [bar, ` ${job.done}/${job.series}${failed}${eta}`]), button(name, () => act(job.id, name)),
        priorityWord(job.priority), when(job.created), String(job.attempts), job.id,
      ];
    })));
}

async function change(id, how) {
  try {
    await ask(`/v1/jobs/${encodeURIComponent(id)}/${how}`, {});
  } catch (error) {
    tell(error);
  }
  await paintJobs();
}

async function save(id) {
  try {
    const answer = await fetch(`/v1/jobs/${encodeURIComponent(id)}/result?format=json`, { headers: keyHeaders() });
    if (!answer.ok) throw new Problem(answer.status, (await answer.json()).detail);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${id}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    tell(error);
  }
}

function promised(one) {
  const found = one.promised?.within_date_accuracy;
  return found && one.promised.horizon === one.horizon ? range(found) : "–";
}

function paintQuality() {
  return section("quality", on.kept, "/v1/quality", ({ versions }) => {
    const figures = table(["version", "dates", "accuracy", "promised", "coverage", "brier"], versions.map((one) => [
      one.version, String(one.dates), range(one.accuracy), promised(one),
      made("td", one.coverage.slice(-3).map((c) => made("div", `${share(c.level)}, ${word("step")} ${c.step}: ${range(c)}`))),
      number(one.brier.value),
    ]));
    const alerts = versions.filter((one) => one.alert).map((one) => made("p", `${one.version}, ${word("alert")}: ${one.alert}`, "alert warn"));
    return made("div", [figures, ...alerts]);
  });
}

function paintVersions() {
  return section("versions", true, "/v1/models", (models) => {
    lookback = models.lookback;
    on = models.on;
    at("model").textContent = `${models.serves.name} ${models.serves.version}`;
    const aliases = (version) => Object.keys(models.aliases).filter((alias) => models.aliases[alias] === version).join(", ");
    return table(["version", "alias", "serves", "trainEnd", "verdict"], models.versions.map((one) => [
      one.version, aliases(one.version), one.version === models.serves.version ? "●" : "", one.train_end ?? "–",
      made("td", one.error ?? one.verdict, one.error ? "long fail" : "long"),
    ]));
  });
}

async function paintHealth() {
  try {
    const health = await ask("/health/ready");
    const kinds = { healthy: "ok", degraded: "warn", unavailable: "fail" };
    at("health").className = kinds[health.status];
    at("health").textContent = [word(health.status), ...health.reasons].join("; ");
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    at("health").className = "fail";
    at("health").textContent = word("unreachable");
  }
}

async function paintAll() {
  await Promise.all([paintHealth(), paintVersions()]);
  await Promise.all([paintHistory(), paintJobs(), paintQuality()]);
}

// -- start -------------------------------------------------------------------------------------------
at("file").addEventListener("change", readFile);
at("ask").addEventListener("submit", forecast);
at("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  paintAll();
});
at("language").addEventListener("click", () => {
  switchLanguage();
  paintWords();
  paintAll();
  if (last) show(...last);
});
paintWords();
paintAll();
setInterval(() => {
  if (document.hidden) return;
  paintHealth();
  paintJobs();
}, EVERY_MS);
