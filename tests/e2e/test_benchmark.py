"""``nnUNetv2_kd benchmark`` on trained teachers and one real case."""

import json


def test_benchmark_of_a_teacher_with_and_without_mirroring(workspace, teachers, tmp_path):
    folder = workspace.results / teachers["3d_fullres"]
    printed = workspace.run(
        *("nnUNetv2_kd", "benchmark", "--model", f"mirrored={folder}:0", "--model", f"plain={folder}:0"),
        *("--no_mirroring", "plain", "-i", workspace.raw / "imagesTs", "-n", "1", "--runs", "1"),
        *("-device", "cpu", "-npp", "0", "-nps", "0", "-o", tmp_path / "out"),
    )
    result = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert (result["cases"], result["runs"], result["reference"]) == (1, 1, "mirrored")
    mirrored, plain = result["models"]["mirrored"], result["models"]["plain"]
    assert (mirrored["cost"]["mirrors"], plain["cost"]["mirrors"]) == (8, 1)
    assert mirrored["cost"]["flops_per_case"] == 8 * plain["cost"]["flops_per_case"]
    # Eight passes instead of one; far less than eight times is left to a busy machine.
    assert mirrored["network_seconds"][0] > 2 * plain["network_seconds"][0]
    for model in (mirrored, plain):
        (predict,), (network,) = model["predict_seconds_per_case"], model["network_seconds"]
        assert 0 < network < predict
        assert 100 < model["peak_rss_mb"][0] < 10_000  # importing torch alone takes more than 100
        assert 0 < model["cpu_time_percent_s"][0] <= 110 * predict
        assert model["peak_device_mb"] is None
        assert model["device_memory_time_mb_s"] is None
    assert "not measured: no GPU in use (-device cpu)" in printed
    assert (tmp_path / "out" / "benchmark.md").read_text().strip() in printed
    logs = sorted(f.name for f in (tmp_path / "out" / "logs").iterdir())
    assert logs == ["mirrored_run_1.log", "mirrored_warm_up.log", "plain_run_1.log", "plain_warm_up.log"]
