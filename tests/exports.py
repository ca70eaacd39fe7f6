"""Exports of programs and brokers as they write them: a line a bar, for `test_exports`.

In braces: o, h, l, c, v a bar, o_ with a decimal comma, Y, m, d, b, y parts of the date, day all of it, noon in
seconds since 1970, roc and be the years of Taiwan and Thailand.
"""

MT5 = "<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
READ = {
    # name: file name, first lines, a line a bar (`fields`), last lines
    "MetaTrader 5": ("EURUSDDaily.csv", MT5, "{Y}.{m}.{d}\t{o}\t{h}\t{l}\t{c}\t{v}\t0\t2", ""),
    "MetaTrader 4": ("EURUSD1440.csv", "", "{Y}.{m}.{d},00:00,{o},{h},{l},{c},{v}", ""),
    "HistData": ("a.csv", "", "{Y}{m}{d} 000000;{o};{h};{l};{c};{v}", ""),
    "Stooq, bulk": (
        "aapl.us.txt",
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n",
        "AAPL.US,D,{Y}{m}{d},000000,{o},{h},{l},{c},{v},0",
        "",
    ),
    "Stooq, Polish": (
        "kgh_d.csv",
        "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\n",
        "{day},{o},{h},{l},{c},{v}",
        "",
    ),
    "Investing.com, German": (
        "SAP Historische Kurse.csv",
        '\ufeff"Datum","Zuletzt","Eröffn.","Hoch","Tief","Vol.","+/- %"\n',
        '"{d}.{m}.{Y}","{c_}","{o_}","{h_}","{l_}","{v},00","0,50%"',
        "",
    ),
    "Ariva": (
        "wkn_716460_historic.csv",
        "\ufeffDatum;Erster;Hoch;Tief;Schlusskurs;Stuecke;Volumen\n",
        "{day};{o_};{h_};{l_};{c_};{v};{v}00",
        "",
    ),
    "Nasdaq.com": (
        "HistoricalData_1.csv",
        "Date,Close/Last,Volume,Open,High,Low\n",
        "{m}/{d}/{Y},${c},{v},${o},${h},${l}",
        "",
    ),
    "Excel's separator": (
        "a.csv",
        "sep=;\nDate;Open;High;Low;Close;Volume\n",
        "{day};{o};{h};{l};{c};{v}",
        "",
    ),
    "an index without a name": (
        "a.csv",
        ",open,close,high,low,volume,money\n",
        "{day},{o},{c},{h},{l},{v},{v}00",
        "",
    ),
    "a numbered index": (
        "a.csv",
        ",time,code,open,close,high,low,volume\n",
        "{v},{day},X,{o},{c},{h},{l},{v}",
        "",
    ),
    "Polygon, flat file": (
        "a.csv",
        "ticker,volume,open,close,high,low,window_start,transactions\n",
        "X,{v},{o},{c},{h},{l},{noon}000000000,9",
        "",
    ),
    "NSE": (
        "a.csv",
        "SYMBOL, SERIES, DATE1, PREV_CLOSE, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, CLOSE_PRICE, TTL_TRD_QNTY\n",
        "X, EQ, {d}-{b}-{Y}, 1, {o}, {h}, {l}, {c}, {v}",
        "",
    ),
    "Tongdaxin": (
        "SH#600000.txt",
        "600000 浦发银行 日线 前复权\n    日期\t    开盘\t    最高\t    最低\t    收盘\t  成交量\t  成交额\n",
        "{Y}/{m}/{d}\t{o}\t{h}\t{l}\t{c}\t{v}\t{v}00",
        "数据来源:通达信\n",
    ),
    "Wind": (
        "a.csv",
        "代码,名称,日期,开盘价(元),最高价(元),最低价(元),收盘价(元),成交额(百万),成交量(股)\n",
        "600519.SH,贵州茅台,{day},{o},{h},{l},{c},0.1,{v}",
        "数据来源：Wind\n",
    ),
    "Japanese": ("7203.csv", "日付,始値,高値,安値,終値,出来高\n", "{day},{o},{h},{l},{c},{v}", ""),
    "Korean": (
        "005930.csv",
        "일자,종가,대비,등락률,시가,고가,저가,거래량,거래대금\n",
        "{day},{c},0,0,{o},{h},{l},{v},{v}00",
        "",
    ),
    "Dukascopy, with its offset": (
        "EURUSD.csv",
        "Local time,Open,High,Low,Close,Volume\n",
        "{d}.{m}.{Y} 12:00:00.000 GMT-0500,{o},{h},{l},{c},{v}",
        "",
    ),
    "Investing.com, Spanish": (
        "a.csv",
        '\ufeff"Fecha","Último","Apertura","Máximo","Mínimo","Vol.","% var."\n',
        '"{d}.{m}.{Y}","{c_}","{o_}","{h_}","{l_}","{v},00","0,50%"',
        "",
    ),
    "Investing.com, Dutch": (
        "a.csv",
        '"Datum","Laatste","Open","Hoog","Laag","Vol.","Verschil %"\n',
        '"{d}-{m}-{Y}","{c_}","{o_}","{h_}","{l_}","{v},00","0,50%"',
        "",
    ),
    "Investing.com, Polish": (
        "a.csv",
        '"Data","Ostatnio","Otwarcie","Max.","Min.","Wol.","Zmiana%"\n',
        '"{d}.{m}.{Y}","{c_}","{o_}","{h_}","{l_}","{v},00","0,50%"',
        "",
    ),
    "Investing.com, Russian": (
        "a.csv",
        '"Дата","Цена","Откр.","Макс.","Мин.","Объём","Изм. %"\n',
        '"{d}.{m}.{Y}","{c_}","{o_}","{h_}","{l_}","{v}","0,50%"',
        "",
    ),
    "Investing.com, Turkish": (
        "a.csv",
        '"Tarih","Şimdi","Açılış","Yüksek","Düşük","Hac.","Fark %"\n',
        '"{d}.{m}.{Y}","{c_}","{o_}","{h_}","{l_}","{v}","0,50%"',
        "",
    ),
    "Investing.com, Chinese": (
        "a.csv",
        '"日期","收盘","开盘","高","低","交易量","涨跌幅"\n',
        '"{Y}-{m}-{d}","{c}","{o}","{h}","{l}","{v}","0.50%"',
        "",
    ),
    "Investing.com, Japanese": (
        "a.csv",
        '"日付け","終値","始値","高値","安値","出来高","変化率 %"\n',
        '"{Y}年{m}月{d}日","{c}","{o}","{h}","{l}","{v}","0.50%"',
        "",
    ),
    "Investing.com, Korean": (
        "a.csv",
        '"날짜","종가","시가","고가","저가","거래량","변동 %"\n',
        '"{Y}- {m}- {d}","{c}","{o}","{h}","{l}","{v}","0.50%"',
        "",
    ),
    "Taiwan": ("2330.csv", "日期,開盤價,最高價,最低價,收盤價,成交股數\n", "{day},{o},{h},{l},{c},{v}", ""),
    "NSE, since 2024": (
        "a.csv",
        "TradDt,BizDt,TckrSymb,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,TtlTradgVol,TtlTrfVal\n",
        "{day},{day},X,{o},{h},{l},{c},{c},1,{v},1",
        "",
    ),
    "NSE, before 2024": (
        "a.csv",
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,TOTALTRADES,\n",
        "X,EQ,{o},{h},{l},{c},{c},1,{v},1,{d}-{b}-{Y},9,",
        "",
    ),
    "Bloomberg": (
        "a.csv",
        "AAPL US Equity\nDate,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,PX_VOLUME\n",
        "{m}/{d}/{Y},{o},{h},{l},{c},{v}",
        "",
    ),
    "Refinitiv": (
        "a.csv",
        "Instrument,Date,Price Open,Price High,Price Low,Price Close,Volume\n",
        "AAPL.O,{day}T00:00:00Z,{o},{h},{l},{c},{v}",
        "",
    ),
    "Refinitiv Workspace": (
        "a.csv",
        "Exchange Date,Close,Net,%Chg,Open,Low,High,Volume,Flow\n",
        "{d}-{b}-{Y},{c},1,0.5%,{o},{l},{h},{v},1",
        "",
    ),
    "Euronext": (
        "a.csv",
        "Historical Data\nfrom 2023-01-03\nFR0000120271\nDate;Open;High;Low;Last;Close;Number of Shares;vwap\n",
        "{d}/{m}/{Y};{o};{h};{l};{c};{c};{v};1",
        "",
    ),
    "Macrotrends": (
        "a.csv",
        "Macrotrends Data Download\n"
        + "\n" * 3
        + "DISCLAIMER: AS IS, NOT FOR TRADING.\n"
        + "\n" * 7
        + "date,open,high,low,close,volume\n",
        "{day},{o},{h},{l},{c},{v}",
        "",
    ),
    "Comdirect": (
        "a.csv",
        '"Historische Kurse: APPLE"\n\n"Datum";"Eröffnung";"Hoch";"Tief";"Schluss";"Volumen"\n',
        '"{d}.{m}.{Y}";"{o_}";"{h_}";"{l_}";"{c_}";"{v}"',
        "",
    ),
    "Kibot": ("AAPL.txt", "", "{m}/{d}/{Y},16:00,{o},{h},{l},{c},{v}", ""),
    "Qlib as CSV": (
        "a.csv",
        "instrument,datetime,$open,$high,$low,$close,$volume,$factor\n",
        "SH600000,{day},{o},{h},{l},{c},{v},1.0",
        "",
    ),
    "Futu": (
        "a.csv",
        "code,name,time_key,open,close,high,low,turnover_rate,volume,turnover,last_close\n",
        "HK.00700,TENCENT,{day} 00:00:00,{o},{c},{h},{l},0.1,{v},1,1",
        "",
    ),
    "Robinhood": (
        "a.csv",
        "begins_at,open_price,close_price,high_price,low_price,volume,session,symbol\n",
        "{day}T00:00:00Z,{o},{c},{h},{l},{v},reg,AAPL",
        "",
    ),
    "AmiBroker": (
        "a.csv",
        "Ticker,Date/Time,Open,High,Low,Close,Volume\n",
        "AAPL,{day},{o},{h},{l},{c},{v}",
        "",
    ),
    "OKX": (
        "a.csv",
        "instrument_name,open,high,low,close,vol,vol_ccy,open_time,confirm\n",
        "BTC-USDT,{o},{h},{l},{c},{v},1,{noon},1",
        "",
    ),
    "TradingView, two plots": (
        "a.csv",
        "time,open,high,low,close,Plot,Plot,Volume\n",
        "{day},{o},{h},{l},{c},1,2,{v}",
        "",
    ),
    "Indian thousands": (
        "a.csv",
        "Date,OPEN,HIGH,LOW,close,52W H,VOLUME,VALUE\n",
        '{d}-{b}-{Y},{o},{h},{l},{c},"12,34,567.50",{v},"12,34,567.50"',
        "",
    ),
}
CHINESE = ("Tongdaxin", "Wind")
"""Written in GBK."""
WESTERN = ("Comdirect",)
"""Written in Windows' Western European."""
REFUSED = {
    # name: first line, a line a bar, what is said
    "Excel's days": ("Date,Open,High,Low,Close\n", "4{v},{o},{h},{l},{c}", "Excel's day numbers"),
    "names of zones": (
        "date,open,high,low,close\n",
        "{Y}{m}{d} 09:30:00 US/Eastern,{o},{h},{l},{c}",
        "cut off the name",
    ),
    "dividends between the rows": (
        "Date,Open,High,Low,Close Close price adjusted for splits.,Volume\n",
        "{day},{o},{h},{l},{c},{v}\n{day},0.24 Dividend,,,,",
        "delete the lines of dividends",
    ),
    "names between the rows": (
        "Date,Open,High,Low,Close\n",
        "{day},{o},{h},{l},{c}\nDate,Open,High,Low,Close",
        "line of names stands there again",
    ),
    "unknown names behind semicolons": (
        "Datum;A;Hoch;Tief;B\n",
        "{day};{o};{h};{l};{c}",
        r"found Datum, A, .*\{open: NAME, close: NAME\}",
    ),
    "years of the Republic of China": (
        "日期,開盤價,最高價,最低價,收盤價\n",
        "{roc}/{m}/{d},{o},{h},{l},{c}",
        "add 1911",
    ),
    "the same, with zeros": ("Date,Open,High,Low,Close\n", "0{roc}-{m}-{d},{o},{h},{l},{c}", "add 1911"),
    "Buddhist years": ("Date,Open,High,Low,Close\n", "{d}/{m}/{be},{o},{h},{l},{c}", "take off 543"),
    "years of two digits": ("Date,Open,High,Low,Close\n", "{d}-{b}-{y},{o},{h},{l},{c}", "four digits"),
    "days, months and years of two digits": (
        "<DATE>;<TIME>;<OPEN>;<HIGH>;<LOW>;<CLOSE>\n",
        "{d}/{m}/{y};000000;{o};{h};{l};{c}",
        "four digits",
    ),
    "a comma after every row": (
        "Date,Open Price,High Price,Low Price,Close Price\n",
        "{day},{o},{h},{l},{c},",
        "the line of names does not: add one there",
    ),
    "another order without names": ("", "{noon},{v},{c},{h},{l},{o}", r"by its number: .*open: N, high: N"),
    "closes of several stocks": (
        "Date,AAPL,MSFT\n",
        "{day},{o},{c}",
        "expected the columns open, high, low, close",
    ),
    "two contracts of one name": (
        "date,symbol,expiry,open,high,low,close\n",
        "{day},CL,2023-09,{o},{h},{l},{c}\n{day},CL,2023-12,{h},{h},{l},{c}",
        "'expiry'",
    ),
}
