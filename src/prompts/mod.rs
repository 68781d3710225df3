pub struct Pair {
    pub clean: Vec<u32>,
    pub corrupted: Vec<u32>,
    pub answers: Vec<u32>,
    pub wrong: Vec<u32>,
}
impl Pair {
    pub fn len(&self) -> usize {
        self.clean.len()
    }
    pub fn is_empty(&self) -> bool {
        self.clean.is_empty()
    }
    pub fn first_difference(&self) -> usize {
        self.clean.iter().zip(&self.corrupted).position(|(a, b)| a != b).unwrap_or(self.clean.len())
    }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Start,
    End,
}
