// A CSV of prices, read in the browser: text -> Map of series, each as columns, oldest bar first.

const NAMES = {
  date: ["date", "datetime", "timestamp", "timestamps", "time", "日期", "时间"],
  ticker: ["ticker", "symbol", "code", "id", "stock", "代码"],
  open: ["open", "开盘"], high: ["high", "最高"], low: ["low", "最低"], close: ["close", "收盘"],
  volume: ["volume", "vol", "成交量"], amount: ["amount", "turnover", "成交额"],
};
const COLUMNS = ["open", "high", "low", "close", "volume", "amount"];

export class BadFile extends Error {
  constructor(kind, row) {
    super(kind);
    this.row = row;
  }
}

function cells(row) {
  return row.split(",").map((cell) => cell.trim().replace(/^"|"$/g, ""));
}

// "2024/1/2", "20240102" and "2024-01-02 09:35" as the service wants them; null for anything else.
function stamp(text) {
  const found = /^(\d{4})[-/.]?(\d{1,2})[-/.]?(\d{1,2})(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}))?)?/.exec(text);
  if (!found) return null;
  const [, year, month, day, hour, minute, second] = found;
  const date = `${year}-${month.padStart(2, "0")}-${day.padStart(2, "0")}`;
  const time = `${(hour ?? "0").padStart(2, "0")}:${minute ?? "00"}:${second ?? "00"}`;
  return time === "00:00:00" ? date : `${date}T${time}`;
}

function places(header) {
  const lower = header.map((name) => name.replace(/^\uFEFF/, "").toLowerCase());
  const found = {};
  for (const [name, words] of Object.entries(NAMES)) {
    found[name] = lower.findIndex((one) => words.includes(one));
  }
  if (["date", "open", "high", "low", "close"].some((name) => found[name] < 0)) throw new BadFile("badFile");
  return found;
}

export function readPrices(text, fileName) {
  const rows = text.split(/\r?\n/);
  const at = places(cells(rows[0]));
  const known = COLUMNS.filter((name) => at[name] >= 0);
  const series = new Map();
  rows.slice(1).forEach((row, number) => {
    if (!row.trim()) return;
    const own = cells(row);
    const date = stamp(own[at.date] ?? "");
    const values = known.map((name) => (own[at[name]] === "" ? NaN : Number(own[at[name]])));
    if (date === null || !values.every(Number.isFinite)) throw new BadFile("badRow", number + 2);
    const name = at.ticker < 0 ? fileName : own[at.ticker];
    if (!series.has(name)) series.set(name, []);
    series.get(name).push([date, ...values]);
  });
  for (const [name, bars] of series) {
    bars.sort((a, b) => (a[0] < b[0] ? -1 : 1));
    const columns = { timestamps: bars.map((bar) => bar[0]) };
    known.forEach((column, i) => (columns[column] = bars.map((bar) => bar[i + 1])));
    series.set(name, columns);
  }
  return series;
}

// The last `count` bars before `end`.
export function part(columns, end, count) {
  const first = Math.max(0, end - count);
  return Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values.slice(first, end)]));
}
