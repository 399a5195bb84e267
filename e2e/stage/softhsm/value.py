"""Asks a PKCS#11 module for the value of a key and prints what it answers:
"CKR_OK" and the value in hexadecimal, or the name of its refusal.

    value.py MODULE TOKEN-LABEL PIN privkey|secrkey KEY-ID
"""

import ctypes
import sys

ULONG = ctypes.c_ulong
CKA_CLASS, CKA_VALUE, CKA_ID = 0x0, 0x11, 0x102
CLASSES = {"privkey": 3, "secrkey": 4}
ANSWERS = {0x0: "CKR_OK", 0x11: "CKR_ATTRIBUTE_SENSITIVE", 0x12: "CKR_ATTRIBUTE_TYPE_INVALID"}


class Attribute(ctypes.Structure):
    _fields_ = [("type", ULONG), ("value", ctypes.c_void_p), ("length", ULONG)]

    @classmethod
    def over(cls, kind, buffer):
        return cls(kind, ctypes.addressof(buffer), ctypes.sizeof(buffer))


def call(function, *args):
    answer = getattr(module, function)(*args)
    if answer != 0:
        sys.exit(f"{function}: {answer:#x}")


def slot_of(label):
    slots, count = (ULONG * 64)(), ULONG(64)
    call("C_GetSlotList", 1, slots, ctypes.byref(count))
    for slot in slots[: count.value]:
        info = ctypes.create_string_buffer(512)  # CK_TOKEN_INFO begins with the label, 32 bytes
        call("C_GetTokenInfo", ULONG(slot), info)
        if info.raw[:32].decode().rstrip() == label:
            return slot
    sys.exit(f"no token {label}")


def the_key(session, class_name, key_id):
    kind = ULONG(CLASSES[class_name])
    name = ctypes.create_string_buffer(key_id, len(key_id))
    wanted = (Attribute * 2)(Attribute.over(CKA_CLASS, kind), Attribute.over(CKA_ID, name))
    keys, found = (ULONG * 2)(), ULONG()
    call("C_FindObjectsInit", session, wanted, ULONG(2))
    call("C_FindObjects", session, keys, ULONG(2), ctypes.byref(found))
    call("C_FindObjectsFinal", session)
    if found.value != 1:
        sys.exit(f"{found.value} keys of class {class_name} with id {key_id.hex()}")
    return ULONG(keys[0])


path, label, pin, class_name, key_id = sys.argv[1:]
module = ctypes.CDLL(path)
call("C_Initialize", None)
session = ULONG()
CKF_SERIAL_SESSION, CKU_USER = 4, 1
call("C_OpenSession", ULONG(slot_of(label)), ULONG(CKF_SERIAL_SESSION), None, None, ctypes.byref(session))
call("C_Login", session, ULONG(CKU_USER), pin.encode(), ULONG(len(pin.encode())))
buffer = ctypes.create_string_buffer(4096)
value = Attribute.over(CKA_VALUE, buffer)
answer = module.C_GetAttributeValue(session, the_key(session, class_name, bytes.fromhex(key_id)), ctypes.byref(value), ULONG(1))
print(ANSWERS.get(answer, f"CKR_{answer:#x}"), buffer.raw[: value.length].hex() if answer == 0 else "")
call("C_Finalize", None)
