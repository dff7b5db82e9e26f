// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The end of bridge.c: what Python asks of the FDB (struct bridge_request), done by the one who writes it.

/* Each of these does a request, or gives false: a place it needs is busy, and the next run tries again. */
static __always_inline bool bridge_add(struct bridge_request *request, __u64 seed, __u32 now)
{
	__u64 key = request->key, hash = fdb_hash(key, seed);
	__u32 seen = now - request->seen;
	struct fdb_place place;
	if (fdb_find(key, hash, &place)) {
		if (!fdb_take_from(place.bucket, place.way, key, place.bucket->where[place.way & 3]))
			return false;
		place.bucket->seen[place.way & 3] = seen;
		place.bucket->where[place.way & 3] = request->where | FDB_VALID;
		request->result = 1;
		return true;
	}
	enum fdb_event event = fdb_insert(key, hash, request->where, seen, now);
	request->result = event != FDB_FULL;
	return event != FDB_LATE;
}

static __always_inline bool bridge_flush(struct bridge_request *request)
{
	struct fdb_bucket *bucket = fdb_bucket(request->key);
	if (!bucket)
		return true;
	bool done = true;
#pragma unroll
	for (__u32 i = 0; i < FDB_WAYS; i++) {
		__u64 key = bucket->key[i];
		__u32 where = bucket->where[i];
		if (where & FDB_BUSY)
			done = false;
		if (!key || (where & request->mask) != request->where ||
		    ((key >> 48) & request->vid_mask) != request->vid)
			continue;
		if (fdb_clear(bucket, i, key, where))
			request->result++;
		else
			done = false;
	}
	return done;
}

/* What Python wants of the table, done by the one who writes it. Run by test-run until the cursor is at its end, never
 * attached. */
int bridge_control(hook_ctx *ctx)
{
	__u32 zero = 0;
	struct bridge_cursor *cursor = bridge_cursor.lookup(&zero);
	if (!cursor || cursor->next >= cursor->end)
		return 0;
	__u32 number = cursor->next;
	struct bridge_request *request = bridge_requests.lookup(&number);
	if (!request)
		return 0;
	__u64 seed = STAGE_CONSTANT(STAGE_BRIDGE, CONSTANT_SEED);
	if (request->operation == BRIDGE_FLUSH) {
		if (!bridge_flush(request) || ++request->key < PYDP_FDB_BUCKETS)
			return 0;
	} else if (request->operation == BRIDGE_ADD) {
		if (!bridge_add(request, seed, fdb_now()))
			return 0;
	} else if (request->operation == BRIDGE_DELETE) {
		if (!fdb_delete(request->key, fdb_hash(request->key, seed), &request->result))
			return 0;
	}
	cursor->next++;
	return 0;
}
