//! The pickle machine: a stack, a memo, and objects in arenas; protocols 2 to 5, opcodes as `pickletools.py` tells them.
//!
//! It has no way to call anything. The names that a pickle may mention are [`Global`]'s; what it may do with them is in
//! [`Machine::reduce`]. Memory is bounded by the pickle's length: an opcode makes one object at most, and objects refer
//! to each other by index, so that no nesting is too deep.

use std::collections::HashMap;

use tch::Kind;

use crate::weights::stored::MAX_DIMENSIONS;

const HIGHEST_PROTOCOL: u8 = 5;
/// Integers in the files are 80 bits at most (the legacy format's magic number).
const MAX_INTEGER_BYTES: usize = 16;

/// Why a pickle is not read.
#[derive(Debug)]
pub enum Fault {
    /// It is not a pickle, or not one that torch.save writes.
    Damaged(String),
    /// It names something that is neither a tensor nor a plain container: `module.name`.
    Foreign(String),
}

/// A name that a pickle may mention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Global {
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and its kin
    Storage(Kind),
    /// `collections.OrderedDict`
    OrderedDict,
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Self, Fault> {
        Ok(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch", "DoubleStorage") => Global::Storage(Kind::Double),
            ("torch", "FloatStorage") => Global::Storage(Kind::Float),
            ("torch", "HalfStorage") => Global::Storage(Kind::Half),
            ("torch", "BFloat16Storage") => Global::Storage(Kind::BFloat16),
            ("torch", "LongStorage") => Global::Storage(Kind::Int64),
            ("torch", "IntStorage") => Global::Storage(Kind::Int),
            ("torch", "ShortStorage") => Global::Storage(Kind::Int16),
            ("torch", "CharStorage") => Global::Storage(Kind::Int8),
            ("torch", "ByteStorage") | ("torch" | "torch.storage", "UntypedStorage") => Global::Storage(Kind::Uint8),
            ("torch", "BoolStorage") => Global::Storage(Kind::Bool),
            _ => return Err(Fault::Foreign(format!("{module}.{name}"))),
        })
    }
}

/// A value; containers are indices into [`Pickled`]'s arenas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// A list or a set.
    List(usize),
    Tuple(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// A storage as a pickle refers to it.
#[derive(Debug, Clone)]
pub struct Storage<'a> {
    pub key: &'a str,
    pub kind: Kind,
    pub elements: u64,
}

/// A tensor as a pickle describes it.
#[derive(Debug)]
pub struct Tensor<'a> {
    pub storage: Storage<'a>,
    /// In elements.
    pub offset: i64,
    pub shape: Vec<i64>,
    /// In elements.
    pub strides: Vec<i64>,
}

/// What a pickle described.
pub struct Pickled<'a> {
    /// The object itself.
    pub root: Value<'a>,
    /// How much of the input the pickle is.
    pub length_bytes: usize,
    pub storages: Vec<Storage<'a>>,
    pub tensors: Vec<Tensor<'a>>,
    lists: Vec<Vec<Value<'a>>>,
    tuples: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
}

impl<'a> Pickled<'a> {
    /// The entries of `value`, if it is a dict.
    pub fn dict(&self, value: Value) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(index) => Some(&self.dicts[index]),
            _ => None,
        }
    }

    /// The items of `value`, if it is a list.
    pub fn list(&self, value: Value) -> Option<&[Value<'a>]> {
        match value {
            Value::List(index) => Some(&self.lists[index]),
            _ => None,
        }
    }

    /// What `value` is, for an error.
    pub fn describe(&self, value: Value) -> String {
        match value {
            Value::None => "None".into(),
            Value::Bool(value) => format!("the bool {value}"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(_) => "text".into(),
            Value::Bytes(_) => "bytes".into(),
            Value::List(index) => format!("a list of {}", self.lists[index].len()),
            Value::Tuple(index) => format!("a tuple of {}", self.tuples[index].len()),
            Value::Dict(index) => format!("a dict of {}", self.dicts[index].len()),
            Value::Global(_) => "a class".into(),
            Value::Storage(_) => "a bare storage".into(),
            Value::Tensor(index) => format!("a tensor of shape {:?}", self.tensors[index].shape),
        }
    }
}

/// Runs one pickle.
pub struct Machine<'a> {
    input: &'a [u8],
    position: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which a group of items began.
    marks: Vec<usize>,
    memo: HashMap<usize, Value<'a>>,
    made: Pickled<'a>,
}

impl<'a> Machine<'a> {
    /// A machine at the beginning of `input`, which may go on behind the pickle.
    pub fn new(input: &'a [u8]) -> Self {
        let made = Pickled {
            root: Value::None,
            length_bytes: 0,
            storages: Vec::new(),
            tensors: Vec::new(),
            lists: Vec::new(),
            tuples: Vec::new(),
            dicts: Vec::new(),
        };
        Machine { input, position: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), made }
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Pickled<'a>, Fault> {
        while !self.step()? {}
        self.made.root = self.pop()?;
        self.made.length_bytes = self.position;
        Ok(self.made)
    }

    /// One opcode; whether it was the last.
    fn step(&mut self) -> Result<bool, Fault> {
        let opcode = self.byte()?;
        match opcode {
            b'.' => return Ok(true),
            0x80 => {
                let protocol = self.byte()?;
                if protocol > HIGHEST_PROTOCOL {
                    return Err(damaged(format!("pickle protocol {protocol}")));
                }
            }
            0x95 => drop(self.take(8)?), // FRAME: a length that only streams need
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_group()?),
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode)?,
            b'}' | b'd' | b's' | b'u' => self.dict(opcode)?,
            b']' | 0x8f | b'l' | b'a' | b'e' | 0x90 => self.list(opcode)?,
            b')' | 0x85..=0x87 | b't' | 0x91 => self.tuple(opcode)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(Global::named(module, name)?));
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => {
                    self.stack.push(Value::Global(Global::named(module, name)?));
                }
                _ => return Err(damaged("a name that is not text")),
            },
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            _ => {
                let scalar = self.scalar(opcode)?;
                self.stack.push(scalar);
            }
        }
        Ok(false)
    }

    /// Numbers, text, bytes.
    fn scalar(&mut self, opcode: u8) -> Result<Value<'a>, Fault> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Integer(self.byte()?.into()),
            b'M' => Value::Integer(self.length(2)? as i128),
            b'J' => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            0x8a => {
                let length = self.length(1)?;
                Value::Integer(integer(self.take(length)?)?)
            }
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => Value::Bytes(self.counted(1)?),
            b'B' => Value::Bytes(self.counted(4)?),
            0x8e => Value::Bytes(self.counted(8)?),
            // Python 2's strings: text, or bytes where they are not UTF-8.
            b'U' | b'T' => {
                let bytes = self.counted(if opcode == b'U' { 1 } else { 4 })?;
                std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text)
            }
            other => {
                let place = self.position - 1;
                return Err(damaged(format!(
                    "opcode {other:#04x} at byte {place} of its pickle, which no state dict needs"
                )));
            }
        })
    }

    fn memo(&mut self, opcode: u8) -> Result<(), Fault> {
        let slot = match opcode {
            0x94 => self.memo.len(),
            b'q' | b'h' => self.length(1)?,
            _ => self.length(4)?,
        };
        if matches!(opcode, b'h' | b'j') {
            let kept = *self.memo.get(&slot).ok_or_else(|| damaged(format!("nothing was kept as {slot}")))?;
            self.stack.push(kept);
        } else {
            self.memo.insert(slot, self.top()?);
        }
        Ok(())
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), Fault> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' | 0x91 => self.pop_group()?,
            _ => {
                let count = usize::from(opcode - 0x84);
                let floor = self.marks.last().copied().unwrap_or(0);
                let start =
                    self.stack.len().checked_sub(count).filter(|&start| start >= floor).ok_or_else(underflow)?;
                self.stack.split_off(start)
            }
        };
        self.made.tuples.push(items);
        self.stack.push(Value::Tuple(self.made.tuples.len() - 1));
        Ok(())
    }

    fn list(&mut self, opcode: u8) -> Result<(), Fault> {
        let items = match opcode {
            b']' | 0x8f => Vec::new(),
            b'a' => vec![self.pop()?],
            _ => self.pop_group()?,
        };
        if matches!(opcode, b']' | 0x8f | b'l') {
            self.made.lists.push(items);
            self.stack.push(Value::List(self.made.lists.len() - 1));
            return Ok(());
        }
        match self.top()? {
            Value::List(index) => self.made.lists[index].extend(items),
            other => return Err(damaged(format!("items for {}", self.made.describe(other)))),
        }
        Ok(())
    }

    fn dict(&mut self, opcode: u8) -> Result<(), Fault> {
        let items = match opcode {
            b'}' => Vec::new(),
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_group()?,
        };
        if items.len() % 2 != 0 {
            return Err(damaged("a key without a value"));
        }
        let entries = items.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        if matches!(opcode, b'}' | b'd') {
            self.made.dicts.push(entries.collect());
            self.stack.push(Value::Dict(self.made.dicts.len() - 1));
            return Ok(());
        }
        match self.top()? {
            Value::Dict(index) => self.made.dicts[index].extend(entries),
            other => return Err(damaged(format!("entries for {}", self.made.describe(other)))),
        }
        Ok(())
    }

    /// What Python would do by a call.
    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = arguments else { return Err(damaged("arguments that are no tuple")) };
        let arguments = &self.made.tuples[arguments];
        let made = match (callee, arguments.as_slice()) {
            (Value::Global(Global::OrderedDict), []) => self.new_dict(Vec::new()),
            // Python 2 passes the entries.
            (Value::Global(Global::OrderedDict), &[Value::List(pairs)]) => {
                // Taken, not copied: else a short pickle could ask for many copies of a long list.
                let pairs = std::mem::take(&mut self.made.lists[pairs]);
                let pairs: Option<Vec<_>> = pairs.iter().map(|&pair| self.pair(pair)).collect();
                let pairs = pairs.ok_or_else(|| damaged("an OrderedDict of other things than pairs"))?;
                self.new_dict(pairs)
            }
            // Behind these four: whether it needs a gradient, and an empty dict of hooks.
            (Value::Global(Global::RebuildTensor), &[Value::Storage(storage), offset, shape, strides, ..]) => {
                let tensor = Tensor {
                    storage: self.made.storages[storage].clone(),
                    offset: as_i64(offset)?,
                    shape: self.extents(shape)?,
                    strides: self.extents(strides)?,
                };
                self.made.tensors.push(tensor);
                Value::Tensor(self.made.tensors.len() - 1)
            }
            (Value::Global(Global::RebuildParameter), &[Value::Tensor(tensor), ..]) => Value::Tensor(tensor),
            _ => return Err(damaged(format!("{} applied to unexpected arguments", self.made.describe(callee)))),
        };
        self.stack.push(made);
        Ok(())
    }

    /// Attributes of the object below: a state dict has `_metadata`, which nothing here needs.
    fn build(&mut self) -> Result<(), Fault> {
        let (state, object) = (self.pop()?, self.top()?);
        match object {
            Value::Dict(_) => Ok(()),
            _ => {
                let (state, object) = (self.made.describe(state), self.made.describe(object));
                Err(damaged(format!("{object} with {state} as attributes")))
            }
        }
    }

    /// `('storage', type, key, device, elements)`, in the legacy format with None (once: a part of another storage) behind it.
    fn storage(&mut self) -> Result<(), Fault> {
        let Value::Tuple(id) = self.pop()? else { return Err(damaged("a reference that is no tuple")) };
        let storage = match *self.made.tuples[id].as_slice() {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(kind)),
                Value::Text(key),
                _,
                Value::Integer(count),
            ]
            | [
                Value::Text("storage"),
                Value::Global(Global::Storage(kind)),
                Value::Text(key),
                _,
                Value::Integer(count),
                Value::None,
            ] => {
                let elements = u64::try_from(count).map_err(|_| damaged(format!("a storage of {count} elements")))?;
                Storage { key, kind, elements }
            }
            _ => return Err(damaged("a reference to something else than a whole storage")),
        };
        self.made.storages.push(storage);
        self.stack.push(Value::Storage(self.made.storages.len() - 1));
        Ok(())
    }

    fn new_dict(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) -> Value<'a> {
        self.made.dicts.push(entries);
        Value::Dict(self.made.dicts.len() - 1)
    }

    fn pair(&self, value: Value<'a>) -> Option<(Value<'a>, Value<'a>)> {
        let items = match value {
            Value::List(index) => &self.made.lists[index],
            Value::Tuple(index) => &self.made.tuples[index],
            _ => return None,
        };
        match **items {
            [key, value] => Some((key, value)),
            _ => None,
        }
    }

    fn extents(&self, value: Value) -> Result<Vec<i64>, Fault> {
        match value {
            Value::Tuple(index) if self.made.tuples[index].len() <= MAX_DIMENSIONS => {
                self.made.tuples[index].iter().map(|&extent| as_i64(extent)).collect()
            }
            _ => Err(damaged(format!("a shape that is {}", self.made.describe(value)))),
        }
    }

    fn top(&self) -> Result<Value<'a>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.last().copied().filter(|_| self.stack.len() > floor).ok_or_else(underflow)
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The items since the last mark.
    fn pop_group(&mut self) -> Result<Vec<Value<'a>>, Fault> {
        let mark = self.marks.pop().ok_or_else(underflow)?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.input[self.position..];
        let (taken, _) = rest.split_at_checked(length).ok_or_else(|| {
            damaged(format!(
                "its pickle ends early: {length} bytes expected at byte {}, {} found",
                self.position,
                rest.len()
            ))
        })?;
        self.position += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    /// A length of `width` bytes.
    fn length(&mut self, width: usize) -> Result<usize, Fault> {
        let length = self.take(width)?.iter().rev().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
        usize::try_from(length).map_err(|_| damaged(format!("a length of {length}")))
    }

    /// Bytes behind their length, which is `width` bytes wide.
    fn counted(&mut self, width: usize) -> Result<&'a [u8], Fault> {
        let length = self.length(width)?;
        self.take(length)
    }

    fn text(&mut self, width: usize) -> Result<Value<'a>, Fault> {
        let bytes = self.counted(width)?;
        std::str::from_utf8(bytes).map(Value::Text).map_err(|_| damaged("text that is not UTF-8"))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.input[self.position..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("a name without an end"))?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| damaged("a name that is not UTF-8"))
    }
}

/// Little-endian two's complement of any length.
fn integer(bytes: &[u8]) -> Result<i128, Fault> {
    if bytes.len() > MAX_INTEGER_BYTES {
        return Err(damaged(format!("an integer of {} bytes", bytes.len())));
    }
    let negative = bytes.last().is_some_and(|&last| last >= 0x80);
    let mut padded = [if negative { 0xff } else { 0 }; MAX_INTEGER_BYTES];
    padded[..bytes.len()].copy_from_slice(bytes);
    Ok(i128::from_le_bytes(padded))
}

fn as_i64(value: Value) -> Result<i64, Fault> {
    match value {
        Value::Integer(value) => i64::try_from(value).map_err(|_| damaged(format!("the extent {value}"))),
        _ => Err(damaged("an extent that is no integer")),
    }
}

fn damaged(reason: impl Into<String>) -> Fault {
    Fault::Damaged(reason.into())
}

fn underflow() -> Fault {
    damaged("its pickle takes more than it put down")
}
