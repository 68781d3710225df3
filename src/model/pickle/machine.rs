//! The machine that reads a pickle of protocol 2 without running anything.
//!
//! A pickle is a program for a small stack machine (the opcodes are documented in CPython's `pickletools.py`). This one
//! knows the opcodes that `torch.save` needs for a dictionary of tensors, and five names where Python has all functions
//! of all modules. Everything it makes lies in one arena and is referred to by number: values are small and copied, a
//! deeply nested pickle costs no stack of ours, and one that copies itself over and over costs a number each time.

use super::PickleError;
use safetensors::Dtype;
use std::collections::HashMap;

/// A pickle of tensors has about 40 opcodes and 200 bytes a tensor.
const MAX_BYTES: usize = 64 << 20;
const MAX_STEPS: usize = 8 << 20;
const MAX_OBJECTS: usize = 4 << 20;
/// Dictionaries in dictionaries are one deep, or two (`_metadata`).
const MAX_MARKS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    /// UTF-8, so many bytes from here in the pickle.
    Text(usize, usize),
    Callable(Callable),
    /// Number in the arena.
    Object(usize),
}

/// The closed list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Callable {
    fn named(name: &str) -> Option<Callable> {
        Some(match name {
            "collections.OrderedDict" => Callable::OrderedDict,
            "torch._utils._rebuild_tensor_v2" => Callable::RebuildTensor,
            "torch._utils._rebuild_parameter" => Callable::RebuildParameter,
            "torch.DoubleStorage" => Callable::Storage(Dtype::F64),
            "torch.FloatStorage" => Callable::Storage(Dtype::F32),
            "torch.HalfStorage" => Callable::Storage(Dtype::F16),
            "torch.BFloat16Storage" => Callable::Storage(Dtype::BF16),
            "torch.LongStorage" => Callable::Storage(Dtype::I64),
            "torch.IntStorage" => Callable::Storage(Dtype::I32),
            "torch.ShortStorage" => Callable::Storage(Dtype::I16),
            "torch.CharStorage" => Callable::Storage(Dtype::I8),
            "torch.ByteStorage" => Callable::Storage(Dtype::U8),
            "torch.BoolStorage" => Callable::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

#[derive(Debug)]
pub(super) enum Object {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(View),
}

/// Numbers in an entry of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub dtype: Dtype,
    /// The entry is `data/KEY`.
    pub key: String,
    pub numel: usize,
}

/// A view of a storage: element `[i, j, …]` is number `offset + i·stride[0] + j·stride[1] + …` of it. Always within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// What a pickle made.
pub(super) struct Unpickled<'p> {
    pickle: &'p [u8],
    objects: Vec<Object>,
    result: Value,
}

impl<'p> Unpickled<'p> {
    /// # Errors
    /// [`PickleError`] naming the first thing that is not tensors or not a pickle.
    pub fn read(pickle: &'p [u8]) -> Result<Unpickled<'p>, PickleError> {
        if pickle.len() > MAX_BYTES {
            return Err(PickleError::TooLarge("more than 64 MiB without the numbers"));
        }
        let mut machine =
            Machine { pickle, at: 0, op: 0, stack: vec![], marks: vec![], memo: HashMap::new(), objects: vec![] };
        for _ in 0..MAX_STEPS {
            if let Some(result) = machine.step()? {
                return Ok(Unpickled { pickle, objects: machine.objects, result });
            }
        }
        Err(PickleError::TooLarge("millions of instructions"))
    }

    /// The tensors of the dictionary that the pickle is, in its order.
    ///
    /// # Errors
    /// [`PickleError`] if it is no dictionary, or for an entry that is no tensor.
    pub fn tensors(&self) -> Result<Vec<(&'p str, &View)>, PickleError> {
        let entries = match self.object(self.result) {
            Some(Object::Dict(entries)) => entries,
            _ => return Err(PickleError::NotTensors { found: self.kind(self.result) }),
        };
        let entry = |(key, value): &(Value, Value)| {
            let Value::Text(start, len) = *key else {
                return Err(PickleError::NotTensors { found: "a dictionary whose keys are no names" });
            };
            let key = text(self.pickle, start, len);
            match self.object(*value) {
                Some(Object::Tensor(view)) => Ok((key, view)),
                _ => Err(PickleError::NotATensor { key: key.to_owned(), found: self.kind(*value) }),
            }
        };
        entries.iter().map(entry).collect()
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(i) => self.objects.get(i),
            _ => None,
        }
    }

    fn kind(&self, value: Value) -> &'static str {
        kind(value, self.object(value))
    }
}

fn kind(value: Value, object: Option<&Object>) -> &'static str {
    match (value, object) {
        (Value::None, _) => "None",
        (Value::Bool, _) => "a bool",
        (Value::Int(_), _) => "an int",
        (Value::Float, _) => "a float",
        (Value::Text(..), _) => "a string",
        (Value::Callable(_), _) => "a function or class",
        (_, Some(Object::Tuple(_))) => "a tuple",
        (_, Some(Object::List(_))) => "a list",
        (_, Some(Object::Dict(_))) => "a dictionary",
        (_, Some(Object::Storage(_))) => "a storage without a tensor",
        (_, Some(Object::Tensor(_))) => "one tensor",
        (_, None) => "nothing",
    }
}

/// Text was found to be UTF-8 when it was read.
fn text(pickle: &[u8], start: usize, len: usize) -> &str {
    pickle.get(start..start + len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

struct Machine<'p> {
    pickle: &'p [u8],
    /// The next byte.
    at: usize,
    /// Where the current instruction begins, for messages.
    op: usize,
    stack: Vec<Value>,
    /// Heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    objects: Vec<Object>,
}

impl<'p> Machine<'p> {
    /// One instruction; the result at STOP.
    fn step(&mut self) -> Result<Option<Value>, PickleError> {
        self.op = self.at;
        let [opcode] = self.take()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => match self.take()? {
                [2] => {}
                [other] => return Err(PickleError::Protocol(other)),
            },
            b'(' if self.marks.len() == MAX_MARKS => return Err(PickleError::TooLarge("nested a thousand deep")),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'J' => {
                let n = i32::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'K' => {
                let [n] = self.take()?;
                self.stack.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(n.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take::<8>()?;
                self.stack.push(Value::Float);
            }
            b'X' => {
                let len = u32::from_le_bytes(self.take()?) as usize;
                self.text(len)?;
            }
            b'U' => {
                let [len] = self.take()?;
                self.text(len.into())?;
            }
            b'c' => self.global()?,
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'}' => self.make(Object::Dict(vec![]))?,
            b']' => self.make(Object::List(vec![]))?,
            b')' => self.make(Object::Tuple(vec![]))?,
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                self.make(Object::Tuple(items))?;
            }
            b't' => {
                let items = self.since_mark()?;
                self.make(Object::Tuple(items))?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.insert(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(&items)?;
            }
            b'q' => {
                let [key] = self.take()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.take()?);
                self.remember(key)?;
            }
            b'h' => {
                let [key] = self.take()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.take()?);
                self.recall(key)?;
            }
            opcode => return Err(PickleError::Opcode { opcode, at: self.op }),
        }
        Ok(None)
    }

    fn malformed(&self, reason: impl Into<String>) -> PickleError {
        PickleError::Malformed { at: self.op, reason: reason.into() }
    }

    fn bytes(&mut self, len: usize) -> Result<&'p [u8], PickleError> {
        let cut = PickleError::Truncated { at: self.op };
        let Some(end) = self.at.checked_add(len) else { return Err(cut) };
        let Some(bytes) = self.pickle.get(self.at..end) else { return Err(cut) };
        self.at = end;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let at = self.op;
        self.bytes(N)?.try_into().map_err(|_| PickleError::Truncated { at })
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err(self.malformed("takes from an empty stack"));
        }
        self.stack.pop().ok_or_else(|| self.malformed("takes from an empty stack"))
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("no mark to go back to"))?;
        Ok(self.stack.split_off(mark))
    }

    fn make(&mut self, object: Object) -> Result<(), PickleError> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(PickleError::TooLarge("millions of objects"));
        }
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
        Ok(())
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(i) => self.objects.get(i),
            _ => None,
        }
    }

    fn expected(&self, what: &str, found: Value) -> PickleError {
        self.malformed(format!("{what} expected, found {}", kind(found, self.object(found))))
    }

    fn tuple(&self, value: Value) -> Result<&[Value], PickleError> {
        match self.object(value) {
            Some(Object::Tuple(items)) => Ok(items),
            _ => Err(self.expected("a tuple", value)),
        }
    }

    /// A number that counts something.
    fn count(&self, value: Value) -> Result<usize, PickleError> {
        match value {
            Value::Int(n) => usize::try_from(n).map_err(|_| self.malformed(format!("{n} is out of range"))),
            other => Err(self.expected("a number", other)),
        }
    }

    fn counts(&self, value: Value) -> Result<Vec<usize>, PickleError> {
        self.tuple(value)?.iter().map(|n| self.count(*n)).collect()
    }

    fn text(&mut self, len: usize) -> Result<(), PickleError> {
        let start = self.at;
        let bytes = self.bytes(len)?;
        if std::str::from_utf8(bytes).is_err() {
            return Err(self.malformed("a string that is not UTF-8"));
        }
        self.stack.push(Value::Text(start, len));
        Ok(())
    }

    fn long(&mut self) -> Result<(), PickleError> {
        let [len] = self.take()?;
        let bytes = self.bytes(len.into())?;
        if bytes.len() > 8 {
            return Err(self.malformed(format!("a number of {len} bytes")));
        }
        let mut wide = [if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn line(&mut self) -> Result<&'p str, PickleError> {
        let rest = self.pickle.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|b| *b == b'\n').ok_or(PickleError::Truncated { at: self.op })?;
        let line = self.bytes(len)?;
        self.bytes(1)?;
        std::str::from_utf8(line).map_err(|_| self.malformed("a name that is not UTF-8"))
    }

    fn global(&mut self) -> Result<(), PickleError> {
        let name = format!("{}.{}", self.line()?, self.line()?);
        let callable = Callable::named(&name).ok_or(PickleError::Global { name })?;
        self.stack.push(Value::Callable(callable));
        Ok(())
    }

    /// `("storage", torch.FloatStorage, key, location, numel)`; where the numbers were (`cuda:0`) does not matter.
    fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = match *self.tuple(id)? {
            [Value::Text(tag, tag_len), Value::Callable(Callable::Storage(dtype)), Value::Text(key, len), _, numel]
                if text(self.pickle, tag, tag_len) == "storage" =>
            {
                Storage { dtype, key: text(self.pickle, key, len).to_owned(), numel: self.count(numel)? }
            }
            _ => return Err(self.malformed("a reference to something that is no storage")),
        };
        self.make(Object::Storage(storage))
    }

    fn reduce(&mut self) -> Result<(), PickleError> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let Value::Callable(callable) = callable else { return Err(self.expected("a function", callable)) };
        let items = self.tuple(args)?;
        match (callable, items) {
            (Callable::OrderedDict, []) => self.make(Object::Dict(vec![])),
            // (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
            (
                Callable::RebuildTensor,
                [storage, offset, size, stride, _, _] | [storage, offset, size, stride, _, _, _],
            ) => {
                let view = self.view(*storage, *offset, *size, *stride)?;
                self.make(Object::Tensor(view))
            }
            // (data, requires_grad, backward_hooks): the data is all of it.
            (Callable::RebuildParameter, [data, _, _]) => match self.object(*data) {
                Some(Object::Tensor(_)) => {
                    let data = *data;
                    self.stack.push(data);
                    Ok(())
                }
                _ => Err(self.expected("a tensor", *data)),
            },
            (_, items) => Err(self.malformed(format!("{callable:?} of {} arguments", items.len()))),
        }
    }

    fn view(&self, storage: Value, offset: Value, size: Value, stride: Value) -> Result<View, PickleError> {
        let Some(Object::Storage(storage)) = self.object(storage) else {
            return Err(self.expected("a storage", storage));
        };
        let (offset, shape, stride) = (self.count(offset)?, self.counts(size)?, self.counts(stride)?);
        if shape.len() != stride.len() {
            return Err(self.malformed(format!("a tensor of shape {shape:?} with strides {stride:?}")));
        }
        let outside = || {
            self.malformed(format!(
                "a tensor of shape {shape:?}, strides {stride:?} and offset {offset} reaches beyond the {} numbers of \
                 storage {:?}",
                storage.numel, storage.key
            ))
        };
        let numel = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).ok_or_else(outside)?;
        let last = shape
            .iter()
            .zip(&stride)
            .try_fold(offset, |at, (n, stride)| at.checked_add(n.saturating_sub(1).checked_mul(*stride)?));
        // More elements than numbers: an expanded tensor, which could be of any size.
        let fits = numel == 0 || (last.is_some_and(|last| last < storage.numel) && numel <= storage.numel);
        if !fits {
            return Err(outside());
        }
        Ok(View { storage: storage.clone(), offset, shape, stride })
    }

    /// Attributes of an ordered dictionary (`_metadata` of a state dict) are no tensors and left aside; those of
    /// anything else could mean something.
    fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        let target = self.stack.last().copied().unwrap_or(Value::None);
        match (self.object(target), self.object(state)) {
            (Some(Object::Dict(_)), Some(Object::Dict(_))) => Ok(()),
            _ => Err(self.malformed("sets the state of something that is no dictionary")),
        }
    }

    fn insert(&mut self, items: &[Value]) -> Result<(), PickleError> {
        let target = self.stack.last().copied().unwrap_or(Value::None);
        let (pairs, rest) = items.as_chunks::<2>();
        match (target, rest) {
            (Value::Object(i), []) => match self.objects.get_mut(i) {
                Some(Object::Dict(entries)) => {
                    entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                    Ok(())
                }
                _ => Err(self.expected("a dictionary", target)),
            },
            (_, []) => Err(self.expected("a dictionary", target)),
            _ => Err(self.malformed("a key without a value")),
        }
    }

    fn append(&mut self, items: &[Value]) -> Result<(), PickleError> {
        let target = self.stack.last().copied().unwrap_or(Value::None);
        let Value::Object(i) = target else { return Err(self.expected("a list", target)) };
        match self.objects.get_mut(i) {
            Some(Object::List(list)) => {
                list.extend(items);
                Ok(())
            }
            _ => Err(self.expected("a list", target)),
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), PickleError> {
        let value = self.stack.last().copied().ok_or_else(|| self.malformed("keeps what is not there"))?;
        if self.memo.len() == MAX_OBJECTS {
            return Err(PickleError::TooLarge("millions of kept values"));
        }
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), PickleError> {
        let value = self.memo.get(&key).copied();
        self.stack.push(value.ok_or_else(|| self.malformed(format!("recalls value {key}, which it has not kept")))?);
        Ok(())
    }
}
