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

    /// Lane `i` becomes what was lane `lanes[i]`.
    pub fn reorder(&mut self, lanes: &Tensor) {
        let length = self.length;
        self.map(|held| {
            let kept = held.empty_like();
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

/// One layer's self-attention keys and values of lanes whose sequences begin at times of their own, `[lanes, H, capacity, D]`.
pub struct LaneCache {
    lanes: i64,
    capacity: i64,
    stored: Option<(Tensor, Tensor)>,
}

impl LaneCache {
    /// An empty cache for `lanes` sequences of up to `capacity` tokens.
    pub fn new(lanes: i64, capacity: i64) -> Self {
        LaneCache { lanes, capacity, stored: None }
    }

    /// Begins the lanes `[n]` anew with `k` and `v`, `[n, H, P, D]`.
    pub fn begin(&mut self, lanes: &Tensor, k: &Tensor, v: &Tensor) {
        let (_, heads, length, width) = k.size4().expect("[n, H, P, D]");
        let (shape, options) = ([self.lanes, heads, self.capacity, width], (k.kind(), k.device()));
        // Zeros: what is hidden counts for nothing only if it is a number.
        let (keys, values) =
            self.stored.get_or_insert_with(|| (Tensor::zeros(shape, options), Tensor::zeros(shape, options)));
        let _ = keys.narrow(2, 0, length).index_copy_(0, lanes, k);
        let _ = values.narrow(2, 0, length).index_copy_(0, lanes, v);
    }

    /// Puts `k` and `v`, `[lanes, H, 1, D]`, at each lane's own of `positions [lanes]`; gives the first `length` of all that is
    /// held, as views. What stands behind a lane's position is an earlier sequence's.
    pub fn put(&mut self, positions: &Tensor, k: &Tensor, v: &Tensor, length: i64) -> (Tensor, Tensor) {
        let (keys, values) = self.stored.as_mut().expect("a lane has begun");
        let at = positions.view([-1, 1, 1, 1]).expand_as(k);
        let _ = keys.scatter_(2, &at, k);
        let _ = values.scatter_(2, &at, v);
        (keys.narrow(2, 0, length), values.narrow(2, 0, length))
    }

    /// Goes on with these lanes `[n]` alone.
    pub fn keep(&mut self, lanes: &Tensor) {
        self.lanes = lanes.size()[0];
        if let Some((keys, values)) = &self.stored {
            self.stored = Some((keys.index_select(0, lanes), values.index_select(0, lanes)));
        }
    }
}
