// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What Python asks of the FDB (struct fdb_request), done by the one who writes it.

enum fdb_control_limit {
	FDB_REQUESTS = 4096, /* requests that one run takes */
};

enum fdb_operation {
	FDB_ADD = 1, /* enter or replace an entry */
	FDB_DELETE = 2, /* take an entry out */
	FDB_FLUSH = 3, /* from bucket number `key` on, one a run, take out what matches `where` under `mask` */
};

struct fdb_request {
	__u64 key;
	__u32 operation; /* enum fdb_operation */
	__u32 where;
	__u32 mask; /* of FDB_FLUSH: bits of the entry's `where` that must equal the request's */
	__u32 vid_mask; /* of FDB_FLUSH: 0xffff to take VLAN or segment `vid` only, 0 for all */
	__u32 vid;
	__u32 seen; /* of FDB_ADD: ticks ago */
	__u32 result; /* entries changed; of FDB_ADD 0 when there was no place */
	__u32 pad;
};

struct fdb_cursor {
	__u32 next; /* request to be done next */
	__u32 end; /* how many there are */
};

/* Written by Python, `result` by fdb_control(). */
BPF_TABLE("array", __u32, struct fdb_request, fdb_requests, FDB_REQUESTS);
/* Set by Python, advanced by fdb_control(). */
BPF_TABLE("array", __u32, struct fdb_cursor, fdb_cursor, 1);

/* Each of these does a request, or gives false: a place it needs is busy, and the next run tries again. */
static __always_inline bool fdb_add(struct fdb_request *request, __u64 seed, __u32 now)
{
	__u64 key = request->key, hash = fdb_hash(key, seed);
	__u32 seen = now - request->seen;
	struct fdb_place place;
	if (fdb_find(key, hash, &place)) {
		if (!fdb_take_from(place.bucket, place.way, key, place.bucket->where[place.way & 3]))
			return false;
		place.bucket->seen[place.way & 3] = seen;
		place.bucket->where[place.way & 3] = request->where | FDB_VALID;
		FDB_CHANGED();
		request->result = 1;
		return true;
	}
	enum fdb_event event = fdb_insert(key, hash, request->where, seen, now);
	FDB_CHANGED();
	request->result = event != FDB_FULL;
	return event != FDB_LATE;
}

static __always_inline bool fdb_flush(struct fdb_request *request)
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
int fdb_control(hook_ctx *ctx)
{
	__u32 zero = 0;
	struct fdb_cursor *cursor = fdb_cursor.lookup(&zero);
	if (!cursor || cursor->next >= cursor->end)
		return 0;
	__u32 number = cursor->next;
	struct fdb_request *request = fdb_requests.lookup(&number);
	if (!request)
		return 0;
	__u64 seed = STAGE_CONSTANT(FDB_STAGE, CONSTANT_SEED);
	if (request->operation == FDB_FLUSH) {
		if (!fdb_flush(request) || ++request->key < PYDP_FDB_BUCKETS)
			return 0;
	} else if (request->operation == FDB_ADD) {
		if (!fdb_add(request, seed, fdb_now()))
			return 0;
	} else if (request->operation == FDB_DELETE) {
		if (!fdb_delete(request->key, fdb_hash(request->key, seed), &request->result))
			return 0;
	}
	cursor->next++;
	return 0;
}
