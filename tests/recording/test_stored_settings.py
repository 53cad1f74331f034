from cl_ac.recording.stored_settings import by_bare_name, flatten


def test_our_classes_go_by_their_bare_names_and_others_keep_their_paths():
    settings = {
        "approach": {"class_path": "cl_ac.attach.Attached", "init_args": {"approach": {"class_path": "cl_ac.a.LwF"}}},
        "backbone": {"class_path": "mine.Net", "init_args": {"model": "cl_ac.x.Y"}},
        "more": [{"class_path": "cl_ac.x.Y"}],
        "seed": 0,
    }
    assert by_bare_name(settings) == {
        "approach": {"class_path": "Attached", "init_args": {"approach": {"class_path": "LwF"}}},
        "backbone": {"class_path": "mine.Net", "init_args": {"model": "cl_ac.x.Y"}},
        "more": [{"class_path": "Y"}],
        "seed": 0,
    }


def test_flatten():
    settings = {"seed": 1, "training": {"epochs": 2, "more": {"lr": 0.1}}, "memory": {}}
    assert flatten(settings) == {"seed": 1, "training.epochs": 2, "training.more.lr": 0.1, "memory": {}}
