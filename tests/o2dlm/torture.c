/*
 * An lvb_torture: nodes count up in a lock value block.
 *
 *	torture MOUNT DOMAIN LOCK NODE ITERATIONS
 *
 * Two of three uses are exclusive: read the block, check it, write the next. The
 * third is shared: read and check. A block is right if its counter is not less than
 * the last one seen here, and the rest follows from it. Prints "ready" when it has
 * had the lock, "wrote N" when it is through, and "last N", what it finds then; each
 * time it waits for a line of input, so that no node is gone while others count.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <o2dlm/o2dlm.h>

struct block {
	uint64_t counter, node, pattern[6];
};

_Static_assert(sizeof(struct block) == 64, "the lock value block of a dlmfs");

static const char *program;

static void must(errcode_t error, const char *what, uint64_t at)
{
	if (!error)
		return;
	fprintf(stderr, "%s: %s at %" PRIu64 ": %s\n", program, what, at, error_message(error));
	exit(1);
}

static void wrong(const char *what, uint64_t found, uint64_t expected)
{
	fprintf(stderr, "%s: %s is %" PRIu64 ", expected %" PRIu64 "\n", program, what, found,
		expected);
	exit(1);
}

static void fill(struct block *block, uint64_t counter, uint64_t node)
{
	block->counter = counter;
	block->node = node;
	for (unsigned i = 0; i < 6; i++)
		block->pattern[i] = (counter ^ (node << 32)) * (i + 3);
}

static uint64_t check(const struct block *block, uint64_t last)
{
	struct block right;

	fill(&right, block->counter, block->node);
	if (memcmp(&right, block, sizeof(right)))
		wrong("the block of counter", block->counter, last);
	if (block->counter < last)
		wrong("the counter", block->counter, last);
	return block->counter;
}

static void meet(const char *text)
{
	char line[16];

	puts(text);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(2);
}

int main(int argc, char **argv)
{
	struct o2dlm_ctxt *ctxt;
	struct block block;
	uint64_t last = 0, writes = 0, node, iterations;
	unsigned int n;
	char text[64];

	program = argv[0];
	if (argc != 6)
		return 2;
	initialize_o2dl_error_table();
	node = strtoull(argv[4], NULL, 10);
	iterations = strtoull(argv[5], NULL, 10);
	must(o2dlm_initialize(argv[1], argv[2], &ctxt), "initialize", 0);
	must(o2dlm_lock(ctxt, argv[3], 0, O2DLM_LEVEL_PRMODE), "first lock", 0);
	must(o2dlm_unlock(ctxt, argv[3]), "first unlock", 0);
	meet("ready");

	for (uint64_t i = 0; i < iterations; i++) {
		int writing = i % 3 != 2;

		must(o2dlm_lock(ctxt, argv[3], 0,
				writing ? O2DLM_LEVEL_EXMODE : O2DLM_LEVEL_PRMODE), "lock", i);
		must(o2dlm_read_lvb(ctxt, argv[3], (char *)&block, sizeof(block), &n), "read", i);
		if (n != sizeof(block))
			wrong("the length read", n, sizeof(block));
		last = check(&block, last);
		if (writing) {
			fill(&block, ++last, node);
			must(o2dlm_write_lvb(ctxt, argv[3], (char *)&block, sizeof(block), &n),
			     "write", i);
			if (n != sizeof(block))
				wrong("the length written", n, sizeof(block));
			writes++;
		}
		must(o2dlm_unlock(ctxt, argv[3]), "unlock", i);
	}
	/* The last look is when all have written. */
	snprintf(text, sizeof(text), "wrote %" PRIu64, writes);
	meet(text);
	must(o2dlm_lock(ctxt, argv[3], 0, O2DLM_LEVEL_PRMODE), "last lock", 0);
	must(o2dlm_read_lvb(ctxt, argv[3], (char *)&block, sizeof(block), &n), "last read", 0);
	last = check(&block, last);
	must(o2dlm_unlock(ctxt, argv[3]), "last unlock", 0);
	snprintf(text, sizeof(text), "last %" PRIu64, last);
	meet(text);
	must(o2dlm_destroy(ctxt), "destroy", 0);
	return 0;
}
