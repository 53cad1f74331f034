"""Classifiers that have a place for every class from the start."""

import torch
import torch.nn.functional as F

from cl_ac.heads.prepared import PreparedLinear, PreparedPolytope, simplex


def test_vertices_are_of_length_1_and_equally_far_from_each_other():
    for count in (2, 5, 100):
        vertices = simplex(count)
        wanted = torch.full((count, count), -1 / (count - 1)).fill_diagonal_(1.0)
        torch.testing.assert_close(vertices @ vertices.T, wanted, atol=1e-5, rtol=0)


def test_the_polytope_classifier_is_linear_and_grows_without_new_weights():
    classifier, generator = PreparedPolytope(4, 6), torch.Generator().manual_seed(0)
    classifier.grow(2, generator)
    features = torch.randn(5, 4)
    first, projection = classifier(features), classifier.projection
    assert classifier.future(features).shape == (5, 4)
    classifier.grow(3, generator)
    assert classifier.projection is projection
    torch.testing.assert_close(classifier(features)[:, :2], first)
    torch.testing.assert_close(classifier(features), F.linear(features, classifier.weight, classifier.bias))


def test_logits_of_a_polytope_are_centred():
    classifier = PreparedPolytope(4, 6)
    classifier.grow(2, torch.Generator().manual_seed(0))
    features = torch.randn(5, 4)
    every = torch.cat([classifier(features), classifier.future(features)], 1)
    torch.testing.assert_close(every.sum(1), torch.zeros(5), atol=1e-5, rtol=0)


def test_new_classes_take_over_rows_that_learned_before():
    classifier, generator = PreparedLinear(4, 6), torch.Generator().manual_seed(0)
    classifier.grow(2, generator)
    features = torch.randn(5, 4)
    assert len({*classifier.weight.flatten().tolist(), *classifier.future_weight.flatten().tolist()}) == 24
    every = torch.cat([classifier(features), classifier.future(features)], 1)
    classifier.grow(3, generator)
    torch.testing.assert_close(classifier(features), every[:, :5])
    torch.testing.assert_close(classifier.future(features), every[:, 5:])
    assert [len(rows) for rows in (*classifier.old_rows, *classifier.new_rows)] == [2, 2, 3, 3]


def test_prepared_classifiers_take_over_a_state_of_any_task():
    for form in (PreparedLinear, PreparedPolytope):
        classifier, other = form(4, 6), form(4, 6)
        for _ in range(2):
            classifier.grow(2, torch.Generator().manual_seed(1))
        other.load_state_dict(classifier.state_dict())
        features = torch.randn(5, 4)
        assert torch.equal(other(features), classifier(features))
        assert torch.equal(other.future(features), classifier.future(features))
