from cl_ac.recording.class_names import by_bare_name


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
