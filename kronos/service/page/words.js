// Every word of the page in both languages. {n} is filled in.
export const WORDS = {
  en: {
    language: "中文", key: "Key of this service", useKey: "Use it", forecast: "Forecast",
    file: "Prices (CSV)", series: "Series",
    horizon: "Bars ahead", level: "Interval", holdback: "forecast the last bars again, and show what happened",
    go: "Forecast", working: "computing…",
    fileHelp: "Columns: date, open, high, low, close; volume, amount and a ticker column if there are any. Only the series that is forecast is sent.",
    known: "known", median: "median", band: "interval", actual: "what happened",
    history: "History of forecasts", jobs: "Jobs", quality: "Quality by version", versions: "Versions",
    noAdvice: "Forecasts are no advice.", charts: "Charts:",
    healthy: "ready", degraded: "ready, but look at it", unavailable: "not ready", unreachable: "no answer",
    probUp: "P(rise)", calibrated: "calibrated", raw: "raw", lastClose: "last close", medianEnd: "median at the end",
    within: "interval at the end", usedBars: "bars used", took: "computed in", measured: "measured coverage",
    off: "Not switched on: start the service with --state DIR.", none: "None yet.",
    when: "made", version: "version", from: "after", show: "Show", state: "state", priority: "priority",
    progress: "progress", tries: "parts begun", cancel: "Cancel", dates: "dates", accuracy: "accuracy within dates",
    coverage: "coverage", step: "step", brier: "Brier", alert: "alert", alias: "alias", trainEnd: "trained until",
    verdict: "backtest", serves: "serves", badFile: "The file needs a header with date, open, high, low and close.",
    badRow: "Row {n} of the file is no bar: a date and numbers are expected.", tooShort: "The series has too few bars.",
    id: "id", left: "about {n} left", failed: "{n} failed",
    act: "action", result: "Result", resume: "Go on", promised: "the backtest's accuracy",
    priorities: { high: "high", normal: "normal", low: "low" },
    states: { queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled" },
  },
  zh: {
    language: "English", key: "本服务的密钥", useKey: "使用", forecast: "预测",
    file: "行情（CSV）", series: "品种",
    horizon: "预测根数", level: "区间", holdback: "重新预测最后几根，并显示实际走势",
    go: "预测", working: "计算中…",
    fileHelp: "列：date、open、high、low、close；如有 volume、amount 和代码列也会使用。只发送要预测的品种。",
    known: "已知", median: "中位数", band: "区间", actual: "实际走势",
    history: "预测历史", jobs: "任务", quality: "各版本的质量", versions: "版本",
    noAdvice: "预测不构成投资建议。", charts: "图表：",
    healthy: "就绪", degraded: "就绪，但请检查", unavailable: "未就绪", unreachable: "没有应答",
    probUp: "上涨概率", calibrated: "已校准", raw: "未校准", lastClose: "最后收盘价", medianEnd: "期末中位数",
    within: "期末区间", usedBars: "使用的根数", took: "计算用时", measured: "实测覆盖率",
    off: "未启用：请用 --state 目录 启动服务。", none: "暂无。",
    when: "时间", version: "版本", from: "起点", show: "显示", state: "状态", priority: "优先级",
    progress: "进度", tries: "已开始的分块", cancel: "取消", dates: "日期数", accuracy: "同日准确率",
    coverage: "覆盖率", step: "步", brier: "Brier", alert: "警报", alias: "别名", trainEnd: "训练截止",
    verdict: "回测", serves: "当前服务", badFile: "文件需要表头：date、open、high、low、close。",
    badRow: "文件第 {n} 行不是一根 K 线：应为日期和数字。", tooShort: "该品种的 K 线太少。",
    id: "编号", left: "约剩 {n}", failed: "{n} 个失败",
    act: "操作", result: "结果", resume: "继续", promised: "回测准确率",
    priorities: { high: "高", normal: "普通", low: "低" },
    states: { queued: "等待", running: "运行中", done: "完成", failed: "失败", cancelled: "已取消" },
  },
};

let chosen = localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export function word(name, n) {
  return WORDS[chosen][name].replace("{n}", n);
}

export function stateWord(name) {
  return WORDS[chosen].states[name] ?? name;
}

export function priorityWord(name) {
  return WORDS[chosen].priorities[name] ?? name;
}

export function switchLanguage() {
  chosen = chosen === "en" ? "zh" : "en";
  localStorage.setItem("language", chosen);
}

export function paintWords() {
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  for (const place of document.querySelectorAll("[data-word]")) {
    place.textContent = word(place.dataset.word);
  }
  document.getElementById("language").textContent = word("language");
}
