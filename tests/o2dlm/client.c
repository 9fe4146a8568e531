/*
 * A program linked with the real libo2dlm that does what it is told, a line for each
 * call and a line for each answer: see tests/o2dlm/client.py, which speaks the same.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <o2dlm/o2dlm.h>

#define CODE(name) { O2DLM_ET_##name, #name }

static const struct {
	errcode_t code;
	const char *name;
} codes[] = {
	CODE(NO_MEMORY), CODE(SERVICE_UNAVAILABLE), CODE(INVALID_LOCK_NAME),
	CODE(INVALID_LOCK_LEVEL), CODE(INTERNAL_FAILURE), CODE(NAME_TOO_LONG),
	CODE(STATFS), CODE(NO_FS_DIR), CODE(NO_FS), CODE(OPEN_DLM_DIR),
	CODE(NO_DOMAIN_DIR), CODE(BAD_DOMAIN_DIR), CODE(BUSY_DOMAIN_DIR),
	CODE(DOMAIN_DIR), CODE(DOMAIN_DESTROY), CODE(DOMAIN_CREATE), CODE(RANDOM),
	CODE(BUSY_LOCK), CODE(OUTPUT_ERROR), CODE(UNLINK), CODE(UNKNOWN_LOCK),
	CODE(RECURSIVE_LOCK), CODE(LOCKING), CODE(FAILED_UNLOCKS),
	CODE(INVALID_ARGS), CODE(TRYLOCK_FAILED), CODE(LVB_READ), CODE(LVB_WRITE),
	CODE(SEEK), CODE(DOMAIN_BUSY), CODE(BAST_UNSUPPORTED), CODE(LVB_INVALID),
};

static struct o2dlm_ctxt *ctxt;
static char basts[4096]; /* the names whose functions were called, in order */
static char *names[64];

static void on_bast(void *arg)
{
	strcat(strcat(basts, " "), arg);
}

/* What `bastdrop` registers: lets the lock go in the function itself. */
static void on_bast_unlock(void *arg)
{
	on_bast(arg);
	if (o2dlm_unlock(ctxt, arg))
		strcat(basts, "!");
}

static void answer(errcode_t error, const char *value)
{
	if (!error) {
		printf("ok%s%s\n", *value ? " " : "", value);
		return;
	}
	for (unsigned i = 0; i < sizeof(codes) / sizeof(*codes); i++)
		if (codes[i].code == error)
			value = codes[i].name;
	printf("error %s\n", value);
}

static char *kept(const char *name)
{
	unsigned i = 0;

	while (names[i])
		i++;
	return names[i] = strdup(name);
}

static void run(char *verb, char *first, char *second, char *third)
{
	enum o2dlm_lock_level level = second && !strncmp(second, "PR", 2) ?
				      O2DLM_LEVEL_PRMODE : O2DLM_LEVEL_EXMODE;
	int flags = third && !strcmp(third, "TRY") ? O2DLM_TRYLOCK : 0;
	int fd = -1, yes = 0;
	unsigned int n = 0;
	char text[8192] = "";
	errcode_t error = 0;

	if (second && !strcmp(second, "BOGUS"))
		level = 7;
	if (!strcmp(verb, "initialize")) {
		error = o2dlm_initialize(first, second, &ctxt);
	} else if (!strcmp(verb, "supports_bast")) {
		error = o2dlm_supports_bast(&yes);
		sprintf(text, "%d", yes);
	} else if (!strcmp(verb, "supports_stackglue")) {
		error = o2dlm_supports_stackglue(&yes);
		sprintf(text, "%d", yes);
	} else if (!strcmp(verb, "lock")) {
		error = o2dlm_lock(ctxt, first, flags, level);
	} else if (!strcmp(verb, "lock_with_bast")) {
		error = o2dlm_lock_with_bast(ctxt, first, flags, level, on_bast,
					     kept(first), &fd);
		sprintf(text, "%d", fd);
	} else if (!strcmp(verb, "bastdrop")) {
		error = o2dlm_lock_with_bast(ctxt, first, flags, level, on_bast_unlock,
					     kept(first), &fd);
		sprintf(text, "%d", fd);
	} else if (!strcmp(verb, "unlock")) {
		error = o2dlm_unlock(ctxt, first);
	} else if (!strcmp(verb, "drop_lock")) {
		error = o2dlm_drop_lock(ctxt, first);
	} else if (!strcmp(verb, "read_lvb")) {
		char block[4096];

		error = o2dlm_read_lvb(ctxt, first, block, atoi(second), &n);
		for (unsigned i = 0; !error && i < n; i++)
			sprintf(text + 2 * i, "%02x", (unsigned char)block[i]);
	} else if (!strcmp(verb, "write_lvb")) {
		char block[4096];
		unsigned size = strlen(second) / 2;

		for (unsigned i = 0; i < size; i++)
			sscanf(second + 2 * i, "%2hhx", (unsigned char *)&block[i]);
		error = o2dlm_write_lvb(ctxt, first, block, size, &n);
		sprintf(text, "%u", n);
	} else if (!strcmp(verb, "poll")) {
		struct pollfd one = { .fd = atoi(first), .events = POLLIN };
		int ready = poll(&one, 1, atoi(second));

		sprintf(text, "%d", ready == 1 && (one.revents & POLLIN));
	} else if (!strcmp(verb, "process_bast")) {
		o2dlm_process_bast(ctxt, atoi(first));
		strcpy(text, basts + (*basts == ' '));
		*basts = '\0';
	} else if (!strcmp(verb, "destroy")) {
		error = o2dlm_destroy(ctxt);
	} else {
		strcpy(text, "no such call");
		error = O2DLM_ET_INVALID_ARGS;
	}
	answer(error, text);
}

int main(void)
{
	char line[16384], *words[4];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		words[0] = strtok(line, " \n");
		for (int i = 1; i < 4; i++)
			words[i] = strtok(NULL, " \n");
		if (words[0])
			run(words[0], words[1], words[2], words[3]);
	}
	return 0;
}
