/* Answers that take long to get and seldom change, kept in files of the user's cache directory
 * ($XDG_CACHE_HOME/ancla, /var/cache/ancla for root, else ~/.cache/ancla).
 *
 * A file counts only under the key that it was stored with, whole, and if nobody else can have
 * written it. That there is none, or that none can be written, is never an error. */
#ifndef ANCLA_CACHE_H
#define ANCLA_CACHE_H

#include <stddef.h>
#include <stdint.h>

/* What was stored under this name with this key, NUL-terminated; NULL where there is nothing. Keys
 * hold no newline. The caller frees. */
char *cache_read(const char *name, const char *key, size_t *length);

void cache_write(const char *name, const char *key, const char *text);

/* FNV-1a; `hash` is HASH_START or an earlier result. */
#define HASH_START UINT64_C(14695981039346656037)
uint64_t hash_text(uint64_t hash, const char *text);

#endif
