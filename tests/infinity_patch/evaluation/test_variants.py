"""Variants are crossed once, and each has a folder of its own."""

from __future__ import annotations

from pathlib import Path

from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant, cache_variants


def test_the_full_cache_knows_no_budget() -> None:
    assert cache_variants(["full", "scalekv"], ["20%", "10%"]) == [
        FULL_CACHE,
        CacheVariant("scalekv", "20%"),
        CacheVariant("scalekv", "10%"),
    ]
    crossed = cache_variants(["full", "h2o"], ["20%", "full"], ["int8", "auto"])
    assert [v.folder for v in crossed] == ["full-full-int8", "full", "h2o-20pct-int8", "h2o-20pct"]


def test_no_two_variants_share_a_folder() -> None:
    variants = [
        CacheVariant("scalekv", "10%"),
        CacheVariant("scalekv", "10"),
        CacheVariant("heatkv:a/order.json", "10%"),
        CacheVariant("heatkv:b/order.json", "10%"),
        CacheVariant("scalekv", "a/own.yaml"),
        CacheVariant("scalekv", "b/own.yaml"),
        CacheVariant("scalekv", "10%", "int8"),
    ]
    assert len({variant.folder for variant in variants}) == len(variants)
    assert all("/" not in variant.folder and " " not in variant.folder for variant in variants)


def test_files_are_named_without_their_folders() -> None:
    variant = CacheVariant("coded:/home/me/c.safetensors", "/home/me/own.yaml")
    assert (variant.short_policy, variant.short_budget) == ("coded:c.safetensors", "own.yaml")
    assert variant.files == [Path("/home/me/c.safetensors"), Path("/home/me/own.yaml")]
    assert FULL_CACHE.files == []
