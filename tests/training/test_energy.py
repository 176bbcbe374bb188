"""Energy: formulas worked by hand, stated assumptions, and codecarbon without network, files or output."""

import importlib.util
import logging
import socket
import types

import pytest

from tlx.training import energy
from tlx.training.energy import Metered, declared, strubell


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in (energy.WATTS, energy.INTENSITY):
        monkeypatch.delenv(name, raising=False)


def test_the_formula_by_hand():
    # (100 + 20 + 4 x 250) W for 100 h are 112 kWh; x 1.58 = 176.96 kWh; x 0.954 = 168.81984 lb; x 0.45359237 kg.
    used = strubell(100, processors=100, memory=20, accelerator=250, accelerators=4)
    assert used.kwh == pytest.approx(176.96, rel=1e-12)
    assert used.co2e_kg == pytest.approx(168.81984 * 0.45359237, rel=1e-12)
    assert used.how == "1120 W x 100 h, PUE 1.58, 0.954 lb CO2e per kWh (Strubell et al., 2019)"
    # One number for all accelerators is not multiplied by their count.
    assert strubell(100, processors=100, memory=20, accelerator=1000, accelerators=1)[:2] == used[:2]
    today = strubell(1, processors=1000, memory=0, pue=1.1, pounds_per_kwh=0.5)
    assert today.kwh == pytest.approx(1.1) and today.co2e_kg == pytest.approx(1.1 * 0.5 * 0.45359237)
    with pytest.raises(ValueError, match=r"^hours, watts, counts, PUE and intensity must be 0 or more, got \(-1, "):
        strubell(-1, processors=1, memory=1)


def test_declared_watts_by_hand(monkeypatch):
    # 200 W for half an hour are 0.1 kWh.
    used = declared(1800, 200, 0.5)
    assert used.kwh == pytest.approx(0.1, rel=1e-12) and used.co2e_kg == pytest.approx(0.05, rel=1e-12)
    assert used.how == "declared: 200 W x 1800 s, 0.5 kg CO2e per kWh"
    monkeypatch.setenv("TLX_WATTS", "400")
    monkeypatch.setenv("TLX_KG_CO2E_PER_KWH", "0.03")
    used = declared(1800)
    assert used.kwh == pytest.approx(0.2, rel=1e-12) and used.co2e_kg == pytest.approx(0.006, rel=1e-12)
    assert used.how == "declared: 400 W ($TLX_WATTS) x 1800 s, 0.03 kg CO2e per kWh"


def test_undeclared_values_are_assumed_with_a_note(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)), raising=False)
    used = declared(3600)
    assert used.kwh == pytest.approx(0.048, rel=1e-12)
    assert used.co2e_kg == pytest.approx(0.048 * 0.475, rel=1e-12)
    parts = (
        "declared: 48 W (assumed: 4 cores x 12 W; set TLX_WATTS",
        "x 3600 s, 0.475 kg CO2e per kWh",
        "set TLX_KG_CO2E_",
    )
    assert all(part in used.how for part in parts)


@pytest.mark.parametrize("value", ["much", "-3", "inf", "nan"])
def test_invalid_watts_are_refused(value, monkeypatch):
    monkeypatch.setenv("TLX_WATTS", value)
    with pytest.raises(ValueError) as error:
        declared(1)
    assert str(error.value).startswith(f"TLX_WATTS is {value!r}; expected a number")


def test_a_context_measures_until_it_is_stopped():
    with Metered("declared", watts=100, intensity=1) as meter:
        first = meter.stop()
        assert meter.stop() is first
    assert meter.stop() is first and 0 < first.kwh < 100 * 60 / 3.6e6
    with pytest.raises(KeyError), Metered("declared", watts=1) as meter:
        raise KeyError
    assert meter.found is not None


def test_declared_watts_are_not_measured_again():
    assert Metered(watts=5).tracker is None


def test_codecarbon_uses_no_network_leaves_no_file_and_prints_nothing(tmp_path, monkeypatch, capfd):
    def refused(*given):
        raise OSError("the network is off")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refused)
    level = logging.getLogger("codecarbon").level
    try:
        with Metered("codecarbon", intensity=0.25) as meter:
            sum(range(10**6))
        used = meter.stop()
    finally:
        logging.getLogger("codecarbon").setLevel(level)
    assert used.kwh > 0 and used.co2e_kg == pytest.approx(used.kwh * 0.25, rel=1e-9)
    assert used.how.startswith("codecarbon ") and used.how.endswith(" 0.25 kg CO2e per kWh")
    assert ("(read from RAPL)" in used.how) == energy.rapl()
    assert "(estimated from its size)" in used.how
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("rapl", "nvml", "recorded"),
    [
        (True, False, "processors 0.5 kWh (read from RAPL), memory 0.25 kWh (estimated from its size)"),
        (
            False, True,
            "processors 0.5 kWh (estimated, because RAPL cannot be read), memory 0.25 kWh (estimated from its size), "
            "accelerators 2 kWh (read by NVML)",
        ),
    ],
)  # fmt: skip
def test_each_part_states_whether_it_is_measured_or_estimated(monkeypatch, rapl, nvml, recorded):
    monkeypatch.setattr(energy, "rapl", lambda: rapl)
    monkeypatch.setattr(energy, "nvml", lambda: nvml)
    data = types.SimpleNamespace(
        cpu_energy=0.5, ram_energy=0.25, gpu_energy=2.0 * nvml, duration=9.0, codecarbon_version="3.2"
    )
    assert energy.describe(data, 0.5) == f"codecarbon 3.2: {recorded}; 9 s, 0.5 kg CO2e per kWh"
    assert energy.permitted()


def test_a_failing_meter_falls_back_to_declared_watts(monkeypatch):
    meter = Metered("codecarbon", watts=100, intensity=1)
    meter.tracker.start = meter.tracker.stop = lambda: None
    with meter:
        pass
    assert meter.stop().how.startswith("declared: 100 W x ")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(energy, "find_spec", lambda name: None if name == "codecarbon" else real(name))
    assert Metered().tracker is None
    with pytest.raises(ImportError) as error:
        Metered("codecarbon")
    assert str(error.value) == "measuring energy needs codecarbon: pip install 'tlx[energy]'"
