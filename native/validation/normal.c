/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * normal.c -- the normal librpma.so.0, which does the work. It is found as the dynamic linker
 * would find it if this library were not there, and rpma's own otherwise; RPMA_LIBRARY chooses as
 * it does for programs in Python, and RPMA_DEBUG_LIBRARY names another one.
 */
#include "validation.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SONAME "librpma.so.0"

struct normal normal;
const char *normal_path = "";

static char path[PATH_MAX];
static struct stat self;
static void *library;

static bool
is_self(const char *file)
{
	struct stat found;
	return !stat(file, &found) && found.st_dev == self.st_dev && found.st_ino == self.st_ino;
}

/* A library that is neither this one nor another copy of it. */
static bool
try_library(const char *file, void **handle)
{
	if (is_self(file))
		return false;
	*handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (!*handle)
		return false;
	if (dlsym(*handle, "rpma_errormsg") && !dlsym(*handle, "rpma_is_normal_build")) {
		(void)dlclose(*handle);
		return false;
	}
	(void)snprintf(path, sizeof(path), "%s", file);
	return true;
}

static bool
try_folder(const char *folder, size_t length, void **handle)
{
	char file[PATH_MAX];
	if (!length)
		folder = ".", length = 1;
	int written = snprintf(file, sizeof(file), "%.*s/" SONAME, (int)length, folder);
	return written > 0 && (size_t)written < sizeof(file) && try_library(file, handle);
}

static bool
try_library_path(void **handle)
{
	const char *folder = secure_getenv("LD_LIBRARY_PATH");
	while (folder) {
		const char *end = strpbrk(folder, ":;");
		if (try_folder(folder, end ? (size_t)(end - folder) : strlen(folder), handle))
			return true;
		folder = end ? end + 1 : NULL;
	}
	return false;
}

/* The cache of ldconfig(8), in its format since glibc 2.32. */
struct cache_header {
	char magic[20];
	uint32_t count, strings_length;
	uint8_t flags, padding[3];
	uint32_t extension, unused[3];
};

struct cache_entry {
	int32_t flags;
	uint32_t name, file, os_version;
	uint64_t capabilities;
};

static const char *
cache_text(const char *cache, size_t size, uint32_t offset)
{
	return offset < size && memchr(cache + offset, '\0', size - offset) ? cache + offset : "";
}

static bool
search_cache(const char *cache, size_t size, void **handle)
{
	struct cache_header header;
	if (size < sizeof(header))
		return false;
	memcpy(&header, cache, sizeof(header));
	if (memcmp(header.magic, "glibc-ld.so.cache1.1", sizeof(header.magic)) ||
	    header.count > (size - sizeof(header)) / sizeof(struct cache_entry))
		return false;
	for (uint32_t i = 0; i < header.count; i++) {
		struct cache_entry entry;
		memcpy(&entry, cache + sizeof(header) + i * sizeof(entry), sizeof(entry));
		if (!strcmp(cache_text(cache, size, entry.name), SONAME) &&
		    try_library(cache_text(cache, size, entry.file), handle))
			return true;
	}
	return false;
}

static bool
try_cache(void **handle)
{
	struct stat status;
	bool found = false;
	int fd = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (!fstat(fd, &status) && status.st_size > 0) {
		size_t size = (size_t)status.st_size;
		char *cache = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (cache != MAP_FAILED) {
			found = search_cache(cache, size, handle);
			(void)munmap(cache, size);
		}
	}
	(void)close(fd);
	return found;
}

/* The folders that the dynamic linker has built in, and this library's run path. */
static bool
try_linker_folders(const char *self_path, void **handle)
{
	Dl_serinfo size, *info;
	bool found = false;
	void *self_handle = dlopen(self_path, RTLD_LAZY | RTLD_NOLOAD);
	if (!self_handle)
		return false;
	if (!dlinfo(self_handle, RTLD_DI_SERINFOSIZE, &size) && (info = malloc(size.dls_size))) {
		(void)dlinfo(self_handle, RTLD_DI_SERINFOSIZE, info);
		if (!dlinfo(self_handle, RTLD_DI_SERINFO, info)) {
			for (unsigned i = 0; i < info->dls_cnt && !found; i++) {
				const char *folder = info->dls_serpath[i].dls_name;
				found = try_folder(folder, strlen(folder), handle);
			}
		}
		free(info);
	}
	(void)dlclose(self_handle);
	return found;
}

/* rpma's own is beside the folder of this one. */
static bool
try_bundled(const char *self_path, void **handle)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(self_path, '/');
	int length = slash ? (int)(slash - self_path) : 0;
	int written = snprintf(folder, sizeof(folder), "%.*s/../librpma", length, self_path);
	return slash && written < (int)sizeof(folder) &&
	       try_folder(folder, (size_t)written, handle);
}

/* What LD_LIBRARY_PATH leads to comes first, then what RPMA_LIBRARY says. */
static bool
find(const char *self_path, void **handle)
{
	const char *choice = secure_getenv("RPMA_LIBRARY");
	if (try_library_path(handle))
		return true;
	if (choice && strchr(choice, '/') && !is_self(choice))
		return try_library(choice, handle);
	bool is_bundled = choice && !strcmp(choice, "bundled");
	bool is_system = choice && !strcmp(choice, "system");
	if (!is_bundled && (try_cache(handle) || try_linker_folders(self_path, handle)))
		return true;
	return !is_system && try_bundled(self_path, handle);
}

static void give_up(const char *what, const char *why) __attribute__((noreturn));

static void
give_up(const char *what, const char *why)
{
	(void)fprintf(stderr, "librpma, debug build: %s%s. %s\n", what, why,
		      "Install the normal library (Debian, Ubuntu: librpma0; Fedora, openSUSE: "
		      "librpma), or set RPMA_DEBUG_LIBRARY to its librpma.so.0.");
	_exit(127);
}

void
normal_load(void)
{
	void *handle = NULL;
	Dl_info me;
	if (!dladdr((void *)(uintptr_t)normal_load, &me) || stat(me.dli_fname, &self))
		memset(&self, 0, sizeof(self));
	const char *named = secure_getenv("RPMA_DEBUG_LIBRARY");
	if (named && named[0]) {
		if (!try_library(named, &handle)) {
			const char *why = dlerror();
			give_up("RPMA_DEBUG_LIBRARY is not a normal librpma.so.0: ",
				why ? why : named);
		}
	} else if (!find(me.dli_fname, &handle)) {
		give_up("the normal " SONAME " was not found", "");
	}
	normal_path = path;
	library = handle;
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		void *function = dlsym(handle, functions[i].name);
		memcpy((char *)&normal + functions[i].offset, &function, sizeof(function));
	}
}

void *
normal_symbol(const char *name)
{
	return dlsym(library, name);
}
