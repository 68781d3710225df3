//! What can be wrong with a file that `torch.save` is said to have written.

/// How to get around a pickle. transformers loads with `weights_only`, so the line is safe for a file one mistrusts, too.
const CONVERT: &str = "to get safetensors, run in its folder: python -c \"from transformers import \
                       AutoModelForCausalLM as A; A.from_pretrained('.').save_pretrained('.')\"";

/// Why a pickled checkpoint is refused. Nothing in it has been run: only tensors are read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    #[error("truncated, or not written by torch.save: it has no directory of a zip container at its end")]
    NotZip,
    #[error("written by PyTorch before 1.6, in a format of its own, which patchwave does not read; {CONVERT}")]
    Legacy,
    /// The zip container contradicts itself or the length of the file.
    #[error("zip container: {0}")]
    Container(String),
    #[error("zip container: {entry:?} is compressed, which torch.save never does; {CONVERT}")]
    Compressed { entry: String },
    #[error("has no data.pkl, so torch.save did not write it")]
    NoPickle,
    #[error("the numbers are stored big-endian, which patchwave does not read; {CONVERT}")]
    BigEndian,
    /// A function or class outside the closed list.
    #[error("asks for {name}; patchwave runs no code of a file and reads tensors only; {CONVERT}")]
    Global { name: String },
    #[error("pickle opcode {opcode:#04x} at byte {at} is not one that torch.save writes for tensors; {CONVERT}")]
    Opcode { opcode: u8, at: usize },
    #[error("pickle protocol {0}; patchwave reads 2, which torch.save writes; {CONVERT}")]
    Protocol(u8),
    #[error("pickle is truncated: it ends in the middle of what begins at byte {at}")]
    Truncated { at: usize },
    /// An instruction that does not fit what stands on the stack.
    #[error("pickle is malformed at byte {at}: {reason}")]
    Malformed { at: usize, reason: String },
    #[error("pickle is beyond any model's: {0}")]
    TooLarge(&'static str),
    #[error("holds {found}, not a dictionary of tensors; {CONVERT}")]
    NotTensors { found: &'static str },
    #[error("entry {key:?} is {found}, not a tensor; {CONVERT}")]
    NotATensor { key: String, found: &'static str },
    #[error("tensor {name:?}: {reason}")]
    Tensor { name: String, reason: String },
}
