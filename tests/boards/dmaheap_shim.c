/*
 * Preloaded by picamera.sh: gives libcamera and picamera2 the buffers of /dev/dma_heap on a kernel without it.
 *
 * A heap is opened as /dev/null, a buffer is a memfd, and the two housekeeping calls on a buffer do nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const char HEAPS[] = "/dev/dma_heap/";

/* Python opens through open64, libcamera through either. */
#define OPENS(name)                                                          \
	int name(const char *path, int flags, ...)                           \
	{                                                                    \
		int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
		va_list rest;                                                \
		va_start(rest, flags);                                       \
		mode_t mode = va_arg(rest, mode_t);                          \
		va_end(rest);                                                \
		if (strncmp(path, HEAPS, sizeof(HEAPS) - 1) == 0)    \
			return real("/dev/null", O_RDWR | O_CLOEXEC);        \
		return real(path, flags, mode);                              \
	}

OPENS(open)
OPENS(open64)

static int allocate(struct dma_heap_allocation_data *wanted)
{
	int memory = memfd_create("dma-heap", MFD_CLOEXEC);

	if (memory < 0)
		return -1;
	if (ftruncate(memory, wanted->len) < 0) {
		close(memory);
		return -1;
	}
	wanted->fd = memory;
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
	va_list rest;
	va_start(rest, request);
	void *argument = va_arg(rest, void *);
	va_end(rest);
	switch (request) {
	case DMA_HEAP_IOCTL_ALLOC:
		return allocate(argument);
	case DMA_BUF_IOCTL_SYNC:
	case DMA_BUF_SET_NAME_A:
	case DMA_BUF_SET_NAME_B:
		return 0;
	default:
		return real(fd, request, argument);
	}
}
