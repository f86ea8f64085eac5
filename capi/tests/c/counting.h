/* Counts what the whole process allocates and frees, the library included, while it is asked to. */
#ifndef COUNTING_H
#define COUNTING_H

#include <errno.h>
#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t is_counting;
static volatile sig_atomic_t allocations;

/* A sanitizer has an allocator of its own. */
#ifndef __SANITIZE_ADDRESS__
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

void *malloc(size_t size)
{
    allocations += is_counting;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations += is_counting;
    return __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    allocations += is_counting;
    return __libc_realloc(block, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    allocations += is_counting;
    *block = __libc_memalign(alignment, size);
    return *block == NULL ? ENOMEM : 0;
}

void free(void *block)
{
    allocations += is_counting;
    __libc_free(block);
}
#endif

#endif
