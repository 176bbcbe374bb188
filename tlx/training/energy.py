"""Measure the energy and CO2e of a stretch of work: by codecarbon where meters can be read, else by declared watts x
time.

Units: power in watts, time in hours or seconds as the name says, energy in kWh, CO2e in kg; intensity in kg per kWh.
"""

import logging
import math
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

WATTS, INTENSITY = "TLX_WATTS", "TLX_KG_CO2E_PER_KWH"
# Typical thermal design powers of vendors: per processor core, and per accelerator in a server.
CORE_WATTS, ACCELERATOR_WATTS = 12.0, 250.0
# The world average (IEA, Global Energy and CO2 Status Report, 2019).
WORLD = 0.475
# Strubell et al. (2019): the data centres of 2018 (a survey), the average of the United States (EPA).
PUE_2018, POUNDS_2018 = 1.58, 0.954
KG_A_POUND = 0.45359237

Meter = Literal["auto", "codecarbon", "declared"]


class Used(NamedTuple):
    """The energy of a stretch of work: `kwh`, `co2e_kg`, and `how` both are known, with every assumption."""

    kwh: float
    co2e_kg: float
    how: str

    def shared(self, by: int) -> "Used":
        """Return the share of each of `by` runs that did the work together.

        >>> Used(3.0, 1.5, "declared").shared(3)
        Used(kwh=1.0, co2e_kg=0.5, how='declared; one of 3 equal shares of runs that trained together')
        """
        if by == 1:
            return self
        return Used(
            self.kwh / by, self.co2e_kg / by, f"{self.how}; one of {by} equal shares of runs that trained together"
        )


def strubell(
    hours: float,
    *,
    processors: float,
    memory: float,
    accelerator: float = 0.0,
    accelerators: int = 0,
    pue: float = PUE_2018,
    pounds_per_kwh: float = POUNDS_2018,
) -> Used:
    """Compute energy and CO2e from average powers (Strubell et al., 2019, section 2).

    p_t = PUE t (p_c + p_r + g p_g) / 1000 kWh, and 0.954 p_t POUNDS of CO2e, here in kg. The defaults of `pue` and
    `pounds_per_kwh` are of 2018: pass current values for the place.

    Args:
        hours: The time.
        processors: Average watts of all processors.
        memory: Average watts of all memory.
        accelerator: Average watts of ONE accelerator; a power that sums all of them goes with `accelerators=1`.
        accelerators: The number of accelerators.
        pue: Watts drawn by the building for each watt of the machine.
        pounds_per_kwh: Pounds of CO2e per kWh.

    Raises:
        ValueError: A number is negative.

    >>> used = strubell(100, processors=100, memory=20, accelerator=250, accelerators=4)
    >>> round(used.kwh, 6), round(used.co2e_kg, 3)
    (176.96, 76.575)
    """
    arguments = (hours, processors, memory, accelerator, accelerators, pue, pounds_per_kwh)
    if not all(number >= 0 and math.isfinite(number) for number in arguments):
        raise ValueError(f"hours, watts, counts, PUE and intensity must be 0 or more, got {arguments}")
    watts = processors + memory + accelerators * accelerator
    kwh = pue * hours * watts / 1000
    how = f"{watts:.4g} W x {hours:.4g} h, PUE {pue:g}, {pounds_per_kwh:g} lb CO2e per kWh (Strubell et al., 2019)"
    return Used(kwh, kwh * pounds_per_kwh * KG_A_POUND, how)


def declared(seconds: float, watts: float | None = None, intensity: float | None = None) -> Used:
    """Return declared watts x time, without any overhead of a building.

    Args:
        seconds: The time.
        watts: Of the whole machine while it works, idle draw included; by default `$TLX_WATTS`, else 12 W for each core
            that this process may use and 250 W for each accelerator.
        intensity: kg CO2e per kWh; by default `$TLX_KG_CO2E_PER_KWH`, else the world average of 2019, 0.475.
    """
    power, source = assumed_watts() if watts is None else (checked(watts, "watts"), "")
    kwh = power * seconds / 3.6e6
    how = f"declared: {power:g} W{source} x {seconds:.4g} s, {at(intensity)}"
    return Used(kwh, kwh * assumed_intensity(intensity), how)


def assumed_watts() -> tuple[float, str]:
    """Return the machine's watts where no meter can be read, and the source of the number."""
    if os.environ.get(WATTS):
        return checked(os.environ[WATTS], WATTS), f" (${WATTS})"
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    accelerators = sum(device.platform != "cpu" for device in jax.local_devices())
    assumption = f"{cores} cores x {CORE_WATTS:g} W" + (
        f" + {accelerators} accelerators x {ACCELERATOR_WATTS:g} W" * bool(accelerators)
    )
    return (
        cores * CORE_WATTS + accelerators * ACCELERATOR_WATTS,
        f" (assumed: {assumption}; set {WATTS} to the power of your machine)",
    )


def assumed_intensity(intensity: float | None) -> float:
    """Return kg CO2e per kWh: `intensity`, else from the environment, else the world average."""
    return checked(intensity if intensity is not None else os.environ.get(INTENSITY) or WORLD, INTENSITY)


def at(intensity: float | None) -> str:
    """Return the intensity in words, and whether it is assumed."""
    declared_intensity = intensity is not None or os.environ.get(INTENSITY)
    return f"{assumed_intensity(intensity):g} kg CO2e per kWh" + (
        "" if declared_intensity else f" (world average of 2019; set {INTENSITY} for your power grid)"
    )


def checked(value: float | str, name: str) -> float:
    """Return a number of zero or more; raise ValueError, with its name, for anything else."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"{name} is {value!r}; expected a number of 0 or more")
    return number


def permitted() -> bool:
    """Return whether a meter of some part of the machine can be read."""
    return rapl() or nvml()


def rapl() -> bool:
    """Return whether the counters of the processors can be read; often only root may."""
    counters = Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj")
    return any(os.access(counter, os.R_OK) for counter in counters)


def nvml() -> bool:
    """Return whether an NVIDIA accelerator is available."""
    return Path("/dev/nvidiactl").exists()


class Metered:
    """Measure energy from the start of the block until `stop` or its end.

    `meter` "auto" is codecarbon where it is installed (the extra `tlx[energy]`) and `permitted`, else the `declared`
    energy; "codecarbon" uses it even where it can only estimate, "declared" never uses it. Both measure the whole
    machine, with its idle draw and all other work meanwhile: simultaneous runs each count all of it. Raises ImportError
    where codecarbon is requested and not installed.

    >>> with Metered("declared", watts=100.0, intensity=0.5) as meter:
    ...     pass
    >>> meter.stop().kwh < 0.001
    True
    """

    def __init__(self, meter: Meter = "auto", *, watts: float | None = None, intensity: float | None = None):
        installed = find_spec("codecarbon") is not None
        if meter == "codecarbon" and not installed:
            raise ImportError("measuring energy needs codecarbon: pip install 'tlx[energy]'")
        self.watts, self.intensity = watts, intensity
        measures = meter == "codecarbon" or (meter == "auto" and watts is None and installed and permitted())
        self.tracker = tracker(assumed_intensity(intensity)) if measures else None
        self.began = time.perf_counter()
        self.found: Used | None = None

    def __enter__(self) -> Self:
        if self.tracker is not None:
            self.tracker.start()
        self.began = time.perf_counter()
        return self

    def stop(self) -> Used:
        """Return the energy used in all; the first call ends the measurement."""
        if self.found is None:
            self.found = declared(time.perf_counter() - self.began, self.watts, self.intensity)
            if self.tracker is not None:
                self.tracker.stop()
                # It reports no errors.
                if data := getattr(self.tracker, "final_emissions_data", None):
                    self.found = Used(
                        float(data.energy_consumed), float(data.emissions), describe(data, self.intensity)
                    )
        return self.found

    def __exit__(self, *error: object) -> None:
        self.stop()


def tracker(intensity: float) -> Any:
    """Return codecarbon's tracker without network, files, locks or messages."""
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    # The country is required, and has no effect where the intensity is set.
    return OfflineEmissionsTracker(
        country_iso_code="USA",
        force_carbon_intensity_g_co2e_kwh=1000 * intensity,
        output_methods=[],
        allow_multiple_runs=True,
        log_level="critical",
    )


def describe(data: Any, intensity: float | None) -> str:
    """Return how codecarbon knows each part: it reads processors from RAPL, else estimates them from their load and
    kind; it always estimates memory from its size; for accelerators it only has the values of their drivers."""
    parts = {
        "processors": (data.cpu_energy, "read from RAPL" if rapl() else "estimated, because RAPL cannot be read"),
        "memory": (data.ram_energy, "estimated from its size"),
        "accelerators": (data.gpu_energy, "read by NVML" if nvml() else "read by their driver"),
    }
    shares = ", ".join(f"{name} {energy:.3g} kWh ({kind})" for name, (energy, kind) in parts.items() if energy)
    return f"codecarbon {data.codecarbon_version}: {shares}; {data.duration:.4g} s, {at(intensity)}"
