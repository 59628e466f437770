//! Keys and values of the tokens already fed, so that a step attends to them without computing them again.

use tch::Tensor;

/// One layer's self-attention keys and values, `[lanes, H, capacity, D]` with `length` filled.
pub struct KvCache {
    capacity: i64,
    length: i64,
    stored: Option<(Tensor, Tensor)>,
}

impl KvCache {
    /// An empty cache for sequences of up to `capacity` tokens.
    pub fn new(capacity: i64) -> Self {
        KvCache { capacity, length: 0, stored: None }
    }

    /// Tokens held.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Adds `k` and `v`, `[lanes, H, L, D]`, and gives all that is held, as views.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (lanes, heads, added, width) = k.size4().expect("[lanes, H, L, D]");
        let end = self.length + added;
        assert!(end <= self.capacity, "{end} tokens exceed the cache's capacity of {}", self.capacity);
        let shape = [lanes, heads, self.capacity, width];
        let options = (k.kind(), k.device());
        let (keys, values) =
            self.stored.get_or_insert_with(|| (Tensor::empty(shape, options), Tensor::empty(shape, options)));
        keys.narrow(2, self.length, added).copy_(k);
        values.narrow(2, self.length, added).copy_(v);
        self.length = end;
        (keys.narrow(2, 0, end), values.narrow(2, 0, end))
    }

    /// Makes `copies` adjacent lanes of each lane.
    pub fn fork(&mut self, copies: i64) {
        if copies > 1 {
            self.map(|held| held.repeat_interleave_self_int(copies, 0, None));
        }
    }

    /// Lane `i` becomes what was lane `lanes[i]`; there may be fewer than before.
    pub fn reorder(&mut self, lanes: &Tensor) {
        let length = self.length;
        self.map(|held| {
            let mut size = held.size();
            size[0] = lanes.size()[0];
            let kept = Tensor::empty(&size, (held.kind(), held.device()));
            kept.narrow(2, 0, length).copy_(&held.narrow(2, 0, length).index_select(0, lanes));
            kept
        });
    }

    fn map(&mut self, change: impl Fn(&Tensor) -> Tensor) {
        if let Some((keys, values)) = &self.stored {
            self.stored = Some((change(keys), change(values)));
        }
    }
}
