/* ossensor.capture._native: blocks.h for Python. Buffers are checked here; what is in them, there. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <time.h>

#include "blocks.h"

/* A ring as Python gives it: a buffer of block_count blocks. */
struct ring {
    Py_buffer memory;
    Py_ssize_t block_bytes, block_count;
};

static int ring_take(struct ring *ring, Py_ssize_t block_bytes)
{
    ring->block_bytes = block_bytes;
    ring->block_count = block_bytes > 0 ? ring->memory.len / block_bytes : 0;
    /* 48: a block's own header. 8: the kernel aligns blocks to pages; an odd stride would misalign atomic loads. */
    if (block_bytes < 48 || block_bytes % 8 || ring->block_count == 0 || (uintptr_t)ring->memory.buf % 8) {
        PyErr_SetString(PyExc_ValueError, "the ring's memory does not hold blocks of that size");
        PyBuffer_Release(&ring->memory);
        return 0;
    }
    return 1;
}

/* The block that has this kernel sequence while it is in the ring: sequence 1 lies first, and they go round. */
static uint8_t *block_of(const struct ring *ring, unsigned long long sequence)
{
    return (uint8_t *)ring->memory.buf + (Py_ssize_t)((sequence - 1) % (unsigned long long)ring->block_count) * ring->block_bytes;
}

PyDoc_STRVAR(copy_doc,
"copy(ring, block_bytes, sequence, slot, used, room, snaplen, ethernet, complete_checksums)\n"
"-> (blocks, packets, used, first_ns, last_ns, full)\n\n"
"Copies the blocks that are ready, from this kernel sequence on, while each fits whole. ValueError: a block is damaged.");

static PyObject *copy(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct ring ring;
    Py_buffer slot;
    Py_ssize_t block_bytes, used, room;
    unsigned long long sequence;
    unsigned int snaplen;
    int ethernet, checksums;
    if (!PyArg_ParseTuple(args, "y*nKw*nnIpp", &ring.memory, &block_bytes, &sequence, &slot, &used, &room, &snaplen,
                          &ethernet, &checksums))
        return NULL;
    if (!ring_take(&ring, block_bytes)) {
        PyBuffer_Release(&slot);
        return NULL;
    }
    PyObject *result = NULL;
    if (sequence == 0 || used < 0 || used > room || room > slot.len) {
        PyErr_SetString(PyExc_ValueError, "no such place in the ring or in the slot");
        goto done;
    }
    struct recipe recipe = {snaplen, ethernet, checksums};
    struct section section = {slot.buf, (size_t)used, (size_t)room, 0, 0, 0};
    enum verdict verdict = COPIED;
    unsigned long long next = sequence;
    Py_BEGIN_ALLOW_THREADS
    while (verdict == COPIED && next - sequence < (unsigned long long)ring.block_count) {
        const uint8_t *block = block_of(&ring, next);
        if (!block_ready(block))
            break;
        verdict = block_sequence(block) == next ? block_copy(block, (size_t)block_bytes, &recipe, &section) : DAMAGED;
        if (verdict == COPIED)
            next++;
    }
    Py_END_ALLOW_THREADS
    /* What came before a damaged block is good: it is given now, and the damage found again by the next call. */
    if (verdict == DAMAGED && next == sequence)
        PyErr_Format(PyExc_ValueError, "block %llu of the ring is damaged", next);
    else
        result = Py_BuildValue("KKnKKO", next - sequence, (unsigned long long)section.packets, (Py_ssize_t)section.used,
                               (unsigned long long)section.first_ns, (unsigned long long)section.last_ns,
                               verdict == FULL ? Py_True : Py_False);
done:
    PyBuffer_Release(&ring.memory);
    PyBuffer_Release(&slot);
    return result;
}

PyDoc_STRVAR(ready_doc,
"ready(ring, block_bytes, sequence) -> bool\n\nWhether the kernel has handed over the block of this sequence.");

static PyObject *ready(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct ring ring;
    Py_ssize_t block_bytes;
    unsigned long long sequence;
    if (!PyArg_ParseTuple(args, "y*nK", &ring.memory, &block_bytes, &sequence) || !ring_take(&ring, block_bytes))
        return NULL;
    int is_ready = block_ready(block_of(&ring, sequence));
    PyBuffer_Release(&ring.memory);
    return PyBool_FromLong(is_ready);
}

PyDoc_STRVAR(gather_doc,
"gather(ring, block_bytes, sequence, nap_s, naps) -> int\n\n"
"Sleeps in naps until the kernel has handed over the block of this sequence, or so many naps are over; says how many.");

static PyObject *gather(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct ring ring;
    Py_ssize_t block_bytes;
    unsigned long long sequence;
    double nap_s;
    int naps, slept = 0;
    if (!PyArg_ParseTuple(args, "y*nKdi", &ring.memory, &block_bytes, &sequence, &nap_s, &naps)
        || !ring_take(&ring, block_bytes))
        return NULL;
    /* Below a second it needs no tv_sec. Negative and NaN sleep not at all. */
    struct timespec nap = {0, nap_s > 0 && nap_s < 1 ? (long)(nap_s * 1e9) : 0};
    const uint8_t *block = block_of(&ring, sequence);
    Py_BEGIN_ALLOW_THREADS
    /* A signal ends the nap, and with it the gathering: its handler has rung a doorbell that the caller polls. */
    while (slept < naps && !(block_ready(block) && block_sequence(block) == sequence) && nanosleep(&nap, NULL) == 0)
        slept++;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&ring.memory);
    return PyLong_FromLong(slept);
}

PyDoc_STRVAR(release_doc,
"release(ring, block_bytes, sequence, count)\n\nGives `count` blocks, from this sequence on, back to the kernel.");

static PyObject *release(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct ring ring;
    Py_ssize_t block_bytes;
    unsigned long long sequence, count;
    if (!PyArg_ParseTuple(args, "w*nKK", &ring.memory, &block_bytes, &sequence, &count) || !ring_take(&ring, block_bytes))
        return NULL;
    for (unsigned long long i = 0; i < count && sequence != 0; i++)
        block_release(block_of(&ring, sequence + i));
    PyBuffer_Release(&ring.memory);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(release_read_doc,
"release_read(ring, block_bytes, sequence) -> int\n\n"
"Gives back blocks below this sequence that a killed reader had read and not given back; says how many.");

static PyObject *release_read(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct ring ring;
    Py_ssize_t block_bytes;
    unsigned long long sequence;
    if (!PyArg_ParseTuple(args, "w*nK", &ring.memory, &block_bytes, &sequence) || !ring_take(&ring, block_bytes))
        return NULL;
    long released = 0;
    for (Py_ssize_t i = 0; i < ring.block_count; i++) {
        uint8_t *block = (uint8_t *)ring.memory.buf + i * block_bytes;
        if (block_ready(block) && block_sequence(block) < sequence) {
            block_release(block);
            released++;
        }
    }
    PyBuffer_Release(&ring.memory);
    return PyLong_FromLong(released);
}

PyDoc_STRVAR(unread_doc,
"unread(ring, block_bytes, sequence) -> int\n\n"
"Packets in the ring from this kernel sequence on, those of the block that the kernel is still filling included.");

static PyObject *unread(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct ring ring;
    Py_ssize_t block_bytes;
    unsigned long long sequence;
    if (!PyArg_ParseTuple(args, "y*nK", &ring.memory, &block_bytes, &sequence) || !ring_take(&ring, block_bytes))
        return NULL;
    unsigned long long packets = 0;
    for (Py_ssize_t i = 0; i < ring.block_count && sequence != 0; i++) {
        const uint8_t *block = block_of(&ring, sequence + (unsigned long long)i);
        /* The kernel numbers a block when it opens it, so an older number means: not opened yet. */
        if (block_sequence(block) != sequence + (unsigned long long)i)
            break;
        packets += block_packets(block);
    }
    PyBuffer_Release(&ring.memory);
    return PyLong_FromUnsignedLongLong(packets);
}

static PyMethodDef methods[] = {
    {"copy", copy, METH_VARARGS, copy_doc},
    {"ready", ready, METH_VARARGS, ready_doc},
    {"gather", gather, METH_VARARGS, gather_doc},
    {"release", release, METH_VARARGS, release_doc},
    {"release_read", release_read, METH_VARARGS, release_read_doc},
    {"unread", unread, METH_VARARGS, unread_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The per-packet loop of the ring engine.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&module);
}
