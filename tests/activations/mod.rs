//! The activations that an epilogue may have, and their values in float64, for the tests of the CPU's epilogue and of the
//! kernels'.

use patchwave::model::spec::Act;

pub const ACTS: [Act; 6] = [Act::Relu, Act::Relu2, Act::Silu, Act::GeluErf, Act::GeluTanh, Act::QuickGelu];

pub fn exact(act: Act, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match act {
        Act::Relu => x.max(0.0),
        Act::Relu2 => x.max(0.0).powi(2),
        Act::Silu => x * sigmoid(x),
        Act::GeluErf => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Act::GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))),
        Act::QuickGelu => x * sigmoid(1.702 * x),
        Act::XIelu => unreachable!("no epilogue has its numbers"),
    }
}
