// Candles, the median, the band and what happened, on the dates that are given and on no others.

const charts = window.LightweightCharts;

// The area between two lines, drawn behind a series: the chart library has none of its own.
class Band {
  constructor() {
    this.points = [];
  }
  attached({ chart, series, requestUpdate }) {
    this.chart = chart;
    this.series = series;
    this.update = requestUpdate;
  }
  set(points, colour) {
    this.points = points;
    this.colour = colour;
    this.update?.();
  }
  autoscaleInfo() {
    if (!this.points.length) return null;
    const low = Math.min(...this.points.map((p) => p.lower));
    const high = Math.max(...this.points.map((p) => p.upper));
    return { priceRange: { minValue: low, maxValue: high } };
  }
  paneViews() {
    return [{ zOrder: () => "bottom", renderer: () => ({ draw: (target) => this.draw(target) }) }];
  }
  draw(target) {
    const scale = this.chart.timeScale();
    const at = this.points.map((p) => ({
      x: scale.timeToCoordinate(p.time),
      lower: this.series.priceToCoordinate(p.lower),
      upper: this.series.priceToCoordinate(p.upper),
    })).filter((p) => p.x !== null && p.lower !== null && p.upper !== null);
    if (at.length < 2) return;
    target.useMediaCoordinateSpace(({ context }) => {
      context.fillStyle = this.colour;
      context.globalAlpha = 0.2;
      context.beginPath();
      at.forEach((p, i) => (i ? context.lineTo(p.x, p.upper) : context.moveTo(p.x, p.upper)));
      at.toReversed().forEach((p) => context.lineTo(p.x, p.lower));
      context.fill();
      context.globalAlpha = 1;
    });
  }
}

let shown = null;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A day stays a day; a time is drawn as if it were UTC, because it is the exchange's wall time.
function timeOf(text) {
  return text.length === 10 ? text : Date.parse(`${text.slice(0, 19)}Z`) / 1000;
}

function candles(bars) {
  return bars.timestamps.map((text, i) => ({
    time: timeOf(text), open: bars.open[i], high: bars.high[i], low: bars.low[i], close: bars.close[i],
  }));
}

function line(timestamps, values) {
  return timestamps.map((text, i) => ({ time: timeOf(text), value: values[i] }));
}

// history: {timestamps, open, high, low, close}; prediction: one of an answer; actual: as history, or null.
export function draw(place, history, prediction, actual) {
  shown?.remove();
  const intraday = prediction.timestamps[0].length > 10;
  shown = charts.createChart(place, {
    autoSize: true,
    layout: { attributionLogo: false, background: { color: colour("paper") }, textColor: colour("ink") },
    grid: { vertLines: { color: colour("line") }, horzLines: { color: colour("line") } },
    rightPriceScale: { borderColor: colour("grey") },
    timeScale: { borderColor: colour("grey"), timeVisible: intraday, secondsVisible: false },
    localization: { locale: document.documentElement.lang, dateFormat: "yyyy-MM-dd" },
  });
  // Chinese screens show rises in red and falls in green.
  const [up, down] = document.documentElement.lang.startsWith("zh") ? [colour("red"), colour("green")] : [colour("blue"), colour("red")];
  const bars = shown.addSeries(charts.CandlestickSeries, {
    upColor: up, downColor: down, borderVisible: false, wickUpColor: up, wickDownColor: down, priceLineVisible: false,
    lastValueVisible: false,
  });
  bars.setData(candles(history));
  const last = { timestamps: history.timestamps.slice(-1), close: history.close.slice(-1) };
  const times = [...last.timestamps, ...prediction.timestamps];
  const median = shown.addSeries(charts.LineSeries, {
    color: colour("blue"), lineWidth: 2, priceLineVisible: false, lastValueVisible: true,
  });
  median.setData(line(times, [...last.close, ...prediction.median.close]));
  const interval = prediction.confidence_intervals.close;
  if (interval) {
    const lower = [...last.close, ...interval.lower];
    const upper = [...last.close, ...interval.upper];
    const band = new Band();
    median.attachPrimitive(band);
    band.set(times.map((text, i) => ({ time: timeOf(text), lower: lower[i], upper: upper[i] })), colour("blue"));
  }
  if (actual && actual.timestamps.length) {
    const happened = shown.addSeries(charts.LineSeries, {
      color: colour("gold"), lineWidth: 2, priceLineVisible: false, lastValueVisible: true,
    });
    happened.setData(line([...last.timestamps, ...actual.timestamps], [...last.close, ...actual.close]));
  }
  const count = history.timestamps.length + prediction.timestamps.length;
  shown.timeScale().setVisibleLogicalRange({ from: Math.max(0, count - 8 * prediction.timestamps.length - 20), to: count + 1 });
}
