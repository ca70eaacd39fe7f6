"""The types of settings: whole numbers and fractions with their ranges, and words to choose from."""

from typing import Annotated, Literal

# A string beside a type is the range that `kronos.configfile` holds a user's value to.
PositiveInt = Annotated[int, "1 to 1000000000"]
PositiveFloat = Annotated[float, "> 0"]
CountInt = Annotated[int, "0 to 1000000000"]
SmallInt = Annotated[int, "1 to 100000"]
"""For what costs memory or time in proportion: a slip of the hand must not fill the machine."""
StepInt = Annotated[int, "1 to 10000000"]
"""Windows of an optimiser step."""
Processes = Annotated[int, "1 to 10000"]
Workers = Annotated[int, "0 to 1000"]
Port = Annotated[int, "0 to 65535"]
Seed = Annotated[int, "0 to 4294967295"]
Lookback = Annotated[int, "2 to 100000"]
CountFloat = Annotated[float, ">= 0"]
Share = Annotated[float, "0 to 1"]
Beta = Annotated[float, "0 to below 1"]

Precision = Literal["auto", "no", "fp16", "bf16"]
Preset = Literal["nano", "mini", "small", "base"]
Scheduler = Literal["onecycle", "cosine", "constant", "plateau"]
BarLength = Literal[
    "1min", "2min", "3min", "5min", "10min", "15min", "20min", "30min", "45min", "60min", "90min", "120min", "180min",
    "240min", "360min", "480min", "720min", "daily", "weekly", "monthly",
]  # fmt: skip
Frequency = Literal["auto", BarLength]
Tracker = Literal["tensorboard", "wandb", "comet_ml", "mlflow"]
HeadInputs = Literal["tokens", "bars", "both"]
