//! NaN and infinity: the run cannot mean anything, so it fails with exit code 1, says where, and leaves no folder.

use crate::scene::{Scene, pairs_of_lengths, tensor};

#[track_caller]
fn fails(scene: &Scene, more: &str, words: &[&str]) {
    let before = scene.files();
    scene.sweep(more).failed(1, words);
    assert_eq!(scene.files(), before, "something was left behind");
}

#[test]
fn weights_that_are_not_finite_name_the_tensor() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let scene = Scene::new("gpt2");
        scene.tensors(|t| tensor(t, "h.2.mlp.c_proj.weight").data[40..44].copy_from_slice(&bad.to_le_bytes()));
        fails(&scene, "", &["h.2.mlp.c_proj.weight", "finite"]);
    }
}

#[test]
fn no_folder_above_the_run_is_left_either() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t| tensor(t, "ln_f.bias").fill(f32::NAN));
    let before = scene.files();
    scene.run("sweep --model model --prompts pairs.jsonl").failed(1, &["ln_f.bias"]);
    scene.run("sweep --model model --prompts pairs.jsonl --output new/deep/run").failed(1, &["ln_f.bias"]);
    assert_eq!(scene.files(), before, "something was left behind");
}

#[test]
fn activations_that_overflow_name_the_layer() {
    for layer in 0..3 {
        let scene = Scene::new("gpt2");
        scene.tensors(|t| tensor(t, &format!("h.{layer}.mlp.c_proj.weight")).fill(3e38));
        fails(&scene, "", &["not finite", &format!("layer {layer}")]);
    }
}

#[test]
fn embedding_and_unembedding_that_overflow_are_named() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t| {
        tensor(t, "wte.weight").fill(3e38);
        tensor(t, "wpe.weight").fill(3e38);
    });
    fails(&scene, "", &["not finite", "the embedding"]);
    let scene = Scene::new("gpt2");
    scene.tensors(|t| tensor(t, "ln_f.weight").fill(3e38));
    fails(&scene, "--metric prob", &["not finite", "the unembedding"]);
}

#[test]
fn overflow_that_only_a_later_group_of_pairs_meets_leaves_no_run_either() {
    let scene = Scene::new("gpt2");
    // 300 pairs of 15 tokens are several groups. Only the last pair reaches position 15, whose embedding overflows
    // behind the first block.
    scene.pairs(&pairs_of_lengths(&[vec![15; 300], vec![16]].concat()));
    scene.tensors(|t| {
        let row_of_15 = 15 * 4 * 24..16 * 4 * 24;
        tensor(t, "wpe.weight").data[row_of_15]
            .chunks_exact_mut(4)
            .for_each(|x| x.copy_from_slice(&3e38_f32.to_le_bytes()));
    });
    fails(&scene, "", &["not finite", "pair 300"]);
}

/// A patch can overflow where the base run does not. That is no "no such cell": the run fails and names the site.
#[test]
fn a_patched_run_that_overflows_names_site_and_layer() {
    let scene = Scene::new("gpt2");
    // In two layers attention adds something huge to two dimensions, of mean 0, and the MLP takes it away again. Without
    // the MLP of layer 1, layer 2 adds to what is still there.
    scene.tensors(|t| {
        for layer in [1, 2] {
            for (name, sign) in [("attn", 1.0), ("mlp", -1.0)] {
                let bias = &mut tensor(t, &format!("h.{layer}.{name}.c_proj.bias")).data;
                for (x, value) in bias.chunks_exact_mut(4).zip([sign * 3e38_f32, -sign * 3e38_f32]) {
                    x.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    });
    fails(&scene, "--sites mlp_out --by layer --patch zero", &["mlp_out", "layer 1", "not finite"]);
}
